"""AudioCaps from a three-row fixture of the publisher's shape, and its real tables."""

from collections import Counter

import pytest
import soundfile

from atr.datasets import audiocaps
from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import SHARED, tone

TABLE = """audiocap_id,youtube_id,start_time,caption
1,-bcdefghijk,30,"A dog barks, then a door shuts"
2,ABCDEFGHIJK,0,Rain falls
3,-bcdefghijk,30,A dog and a door
"""
REAL = SHARED / "data" / "captions" / "audiocaps"


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "train.csv").write_text(TABLE)
    soundfile.write(tmp_path / "Y-bcdefghijk.wav", tone(200, 60, 1000), 1000)
    soundfile.write(tmp_path / "ABCDEFGHIJK_0_10.wav", tone(200, 10, 1000), 1000)
    return Raw(tmp_path, AudioFiles(tmp_path))


def test_counts_and_the_first_clip(raw):
    clips = list(audiocaps.read(raw, "train"))
    assert len(clips) == 2
    assert clips[0] == Clip(
        id="-bcdefghijk_30", audio=str(raw.root / "Y-bcdefghijk.wav"), split="train", start=30.0, end=40.0,
        captions=["A dog barks, then a door shuts", "A dog and a door"], source="youtube:-bcdefghijk",
        dataset="AudioCaps", licence="captions MIT; the sound belongs to the videos' authors",
    )  # fmt: skip
    assert (clips[1].audio, clips[1].start) == (str(raw.root / "ABCDEFGHIJK_0_10.wav"), None)


def test_without_sounds_the_clips_carry_id_and_times(raw):
    clips = list(audiocaps.read(Raw(raw.root, AudioFiles(None)), "train"))
    assert [(clip.audio, clip.start, clip.end) for clip in clips] == [
        ("-bcdefghijk", 30.0, 40.0), ("ABCDEFGHIJK", 0.0, 10.0),
    ]  # fmt: skip


def test_rows_that_give_no_clip_are_named(raw):
    path = raw.root / "val.csv"
    path.write_text(
        "audiocap_id,youtube_id,start_time,caption\n1,#NAME?,30,a\n2,short,30,b\n3,ABCDEFGHIJK,x,c\n"
        "4,ABCDEFGHIJK,0,\n5,ABCDEFGHIJK,0\n6,zzzzzzzzzzz,0,d\n"
    )
    assert list(audiocaps.read(raw, "validation")) == [
        BadSample(f"{path}:2", "'youtube_id' is #NAME?, which a spreadsheet put there; take the original table"),
        BadSample(f"{path}:3", "'short' is no YouTube id"),
        BadSample(f"{path}:4", "'x' is no number of seconds"),
        BadSample(f"{path}:5", "has no caption"),
        BadSample(f"{path}:6", "has 3 cells instead of 4"),
        BadSample("zzzzzzzzzzz_0", f"no file for video 'zzzzzzzzzzz' below {raw.root}"),
    ]


def test_another_table_is_refused(raw):
    with pytest.raises(MissingSplit, match=r"test\.csv is missing: AudioCaps' table of this split"):
        list(audiocaps.read(raw, "test"))
    (raw.root / "test.csv").write_text("id,text\n")
    with pytest.raises(DataError, match=r"test\.csv: has no column 'youtube_id', 'start_time', 'caption'; its columns"):
        list(audiocaps.read(raw, "test"))


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared tables")
@pytest.mark.parametrize(
    ("split", "clips", "captions"), [("train", 49_838, 1), ("validation", 495, 5), ("test", 975, 5)]
)
def test_the_real_tables(split, clips, captions):
    found = list(audiocaps.read(Raw(REAL, AudioFiles(None)), split))
    assert Counter(type(one) for one in found) == {Clip: clips}
    assert {len(clip.captions) for clip in found} == {captions}
    assert len({clip.id for clip in found}) == clips
