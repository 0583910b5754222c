"""CREMA-D from three files named as the publisher's, and from AudioSetCaps' table."""

from atr.datasets import crema_d
from atr.types import Clip
from tests.datasets.reading import put, read_split


def test_counts_and_the_first_clip(tmp_path):
    for name in ("1001_DFA_ANG_XX", "1040_ITH_SAD_X", "1091_IEO_HAP_HI", "1001_DFA_ODD_XX"):
        put(tmp_path / "AudioWAV" / f"{name}.wav")
    clips, bad = read_split(crema_d, tmp_path, "all", tmp_path)
    assert clips[0] == Clip(
        id="1001_DFA_ANG_XX", audio=str(tmp_path / "AudioWAV" / "1001_DFA_ANG_XX.wav"), labels=["Anger"], split="all",
        source="crema-d:1001_DFA_ANG_XX", dataset="CREMA-D", licence=crema_d.CARD.licence,
    )  # fmt: skip
    assert [clip.labels for clip in clips[1:]] == [["Sad"], ["Happy/Joy"]]
    assert [one.key for one in bad] == ["1001_DFA_ODD_XX"]
    assert bad[0].reason.endswith("1001_DFA_ODD_XX.wav is no name such as 1001_DFA_ANG_XX.wav")


def test_the_table_of_audiosetcaps(tmp_path):
    rows = (
        "Audio Path,Emotion\nCREMA-D/AudioWAV/1086_IWL_ANG_XX.wav,Anger\nCREMA-D/AudioWAV/1001_DFA_ANG_XX.wav,Anger\n"
    )
    put(tmp_path / "CREMA-D_test.csv", rows)
    path = put(tmp_path / "AudioWAV" / "1086_IWL_ANG_XX.wav")
    clips, bad = read_split(crema_d, tmp_path, "all", tmp_path)
    assert [(clip.id, clip.audio, clip.labels) for clip in clips] == [("1086_IWL_ANG_XX", str(path), ["Anger"])]
    assert [one.reason for one in bad] == [f"no file 'CREMA-D/AudioWAV/1001_DFA_ANG_XX.wav' below {tmp_path}"]
