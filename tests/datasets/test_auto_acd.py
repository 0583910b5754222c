"""Auto-ACD from a three-row fixture of the publisher's shape."""

import pytest
import soundfile

from atr.datasets import auto_acd
from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import tone

TABLE = """youtube_id,caption
ABCDEFGHIJK,"A dog barks, in a yard."
Y-bcdefghijk,Rain falls on a street.
cdefghijk,A train passes.
"""
VGGSOUND = "-bcdefghijk,30,raining,train\nzzzzzzzzzzz,4,owl,test\nyyyyyyyyyyy,late,owl,test\n"


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "train.csv").write_text(TABLE)
    for name in ("ABCDEFGHIJK_30_40", "Y-bcdefghijk", "--cdefghijk"):
        soundfile.write(tmp_path / f"{name}.wav", tone(200, 45, 1000), 1000)
    return Raw(tmp_path, AudioFiles(tmp_path))


def test_counts_and_the_first_clip(raw):
    clips = list(auto_acd.read(raw, "train"))
    assert clips[0] == Clip(
        id="ABCDEFGHIJK", audio=str(raw.root / "ABCDEFGHIJK_30_40.wav"), captions=["A dog barks, in a yard."],
        split="train", source="youtube:ABCDEFGHIJK", dataset="Auto-ACD",
        licence="none is stated; the sound belongs to the videos' authors",
    )  # fmt: skip
    assert [(clip.id, clip.start) for clip in clips[1:]] == [("-bcdefghijk", None), ("--cdefghijk", None)]
    assert clips[2].audio == str(raw.root / "--cdefghijk.wav")  # its dashes were lost


def test_the_rows_of_vggsound_have_times(raw):
    with pytest.raises(MissingSplit, match=r"vggsound\.csv is missing: VGGSound's table, which gives the times"):
        list(auto_acd.read(raw, "train_vggsound"))
    path = raw.root / "vggsound.csv"
    path.write_text(VGGSOUND)
    bad, clip = auto_acd.read(raw, "train_vggsound")
    assert bad == BadSample(f"{path}:3", "'late' is no number of seconds", clips=0)
    assert (clip.id, clip.start, clip.end, clip.split) == ("-bcdefghijk_30", 30.0, 40.0, "train_vggsound")


def test_rows_that_give_no_clip_are_named(raw):
    path = raw.root / "val.csv"
    path.write_text(
        "youtube_id,caption\nABCDEFGHIJK,a\nABCDEFGHIJK,b\n#NAME?,c\nshort,d\nABCDEFGHIJKL,e\nzzzzzzzzzzz,\nyyyyyyyyyyy,f\n"
    )
    assert list(auto_acd.read(raw, "validation"))[1:] == [
        BadSample(f"{path}:3", "'ABCDEFGHIJK' came before, and without times the stretches cannot be told apart"),
        BadSample(f"{path}:4", "'youtube_id' is #NAME?, which a spreadsheet put there; take the original table"),
        BadSample(f"{path}:5", "'short' is no YouTube id"),
        BadSample(f"{path}:6", "'ABCDEFGHIJKL' is no YouTube id"),
        BadSample(f"{path}:7", "has no caption"),
        BadSample("yyyyyyyyyyy", f"no file for video 'yyyyyyyyyyy' below {raw.root}"),
    ]


def test_another_table_is_refused(raw):
    with pytest.raises(MissingSplit, match=r"test\.csv is missing: Auto-ACD's table"):
        list(auto_acd.read(raw, "test"))
    (raw.root / "test.csv").write_text("id,text\n")
    with pytest.raises(DataError, match="has no column 'youtube_id', 'caption'; its columns are 'id', 'text'"):
        list(auto_acd.read(raw, "test"))
