"""RAVDESS from files named as the publisher's, and from AudioSetCaps' table."""

from atr.datasets import ravdess
from atr.types import Clip
from tests.datasets.reading import put, read_split

NAMES = ("03-01-05-01-02-01-12", "03-02-02-01-02-01-12", "03-01-08-02-01-02-24")


def test_counts_and_the_first_clip(tmp_path):
    for name in (*NAMES, "01-01-05-01-02-01-12"):
        put(tmp_path / f"Actor_{name[-2:]}" / f"{name}.wav")
    speech, bad = read_split(ravdess, tmp_path, "speech", tmp_path)
    assert speech[0] == Clip(
        id=NAMES[0], audio=str(tmp_path / "Actor_12" / f"{NAMES[0]}.wav"), labels=["angry"], split="speech",
        source=f"ravdess:{NAMES[0]}", dataset="RAVDESS", licence="CC BY-NC-SA 4.0",
    )  # fmt: skip
    assert [clip.labels for clip in speech] == [["angry"], ["surprised"]]
    assert [one.key for one in bad] == ["01-01-05-01-02-01-12"]  # with picture
    song, _ = read_split(ravdess, tmp_path, "song", tmp_path)
    assert [(clip.id, clip.labels, clip.split) for clip in song] == [(NAMES[1], ["calm"], "song")]


def test_the_table_of_audiosetcaps(tmp_path):
    rows = [
        "Audio Path,Emotion,Category,Actor",
        f"RAVDESS/song/Actor_12/{NAMES[1]}.wav,calm,song,Actor_12",
        f"RAVDESS/speech/Actor_12/{NAMES[0]}.wav,angry,speech,Actor_12",
        f"RAVDESS/speech/Actor_24/{NAMES[2]}.wav,surprised,speech,Actor_24",
        "RAVDESS/speech/Actor_24/x.wav,surprised,speech,Actor_24",
    ]
    put(tmp_path / "RAVDESS_test.csv", "\n".join(rows) + "\n")
    song = put(tmp_path / "song" / "Actor_12" / f"{NAMES[1]}.wav")
    put(tmp_path / "speech" / "Actor_12" / f"{NAMES[0]}.wav")
    put(tmp_path / "x.wav")
    clips, bad = read_split(ravdess, tmp_path, "song", tmp_path)
    assert [(clip.audio, clip.labels) for clip in clips] == [(str(song), ["calm"])]
    assert [(one.key, one.reason) for one in bad] == [
        ("x", "is no name such as 03-01-05-01-01-01-12.wav, which tells speech from song")
    ]
    clips, bad = read_split(ravdess, tmp_path, "speech", tmp_path)
    assert [clip.id for clip in clips] == [NAMES[0]] and [one.key for one in bad] == [NAMES[2], "x"]
