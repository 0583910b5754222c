"""VGGSound from three-row fixtures of both layouts, and from the real test table."""

import pytest
import soundfile

from atr.datasets import vggsound
from atr.datasets.corpus import MissingSplit
from atr.types import Clip
from tests.conftest import SHARED, tone
from tests.datasets.reading import put, read_split

REAL = SHARED / "data" / "meta" / "vggsound_test.csv"
TABLE = """---1_cCGK4M,30,"people whistling, a lot",test
-0abcdefgh1,0,dog barking,train
-0abcdefgh1,110,dog barking,test
"""


def test_counts_and_the_first_clip(tmp_path):
    put(tmp_path / "vggsound.csv", TABLE)
    clips, bad = read_split(vggsound, tmp_path, "test")
    assert not bad and [clip.id for clip in clips] == ["---1_cCGK4M_000030", "-0abcdefgh1_000110"]
    assert clips[0] == Clip(
        id="---1_cCGK4M_000030", audio="---1_cCGK4M", labels=["people whistling, a lot"], split="test", start=30.0,
        end=40.0, source="youtube:---1_cCGK4M", dataset="VGGSound", licence=vggsound.CARD.licence,
    )  # fmt: skip
    assert [clip.id for clip in read_split(vggsound, tmp_path, "train")[0]] == ["-0abcdefgh1_000000"]


def test_sounds_under_the_usual_names(tmp_path):
    put(tmp_path / "vggsound.csv", TABLE)
    soundfile.write(tmp_path / "---1_cCGK4M_000030.flac", tone(300), 16_000)
    clips, bad = read_split(vggsound, tmp_path, "test", tmp_path)
    assert [(clip.audio, clip.start, clip.end) for clip in clips] == [
        (str(tmp_path / "---1_cCGK4M_000030.flac"), None, None)
    ]
    assert [one.key for one in bad] == ["-0abcdefgh1_000110"]


def test_the_other_layout(tmp_path):
    put(tmp_path / "vggsound_test.csv", "---1_cCGK4M_000030.mp4,people whistling\r\nshort_000030.mp4,rain\r\n")
    clips, bad = read_split(vggsound, tmp_path, "test")
    assert [(clip.id, clip.labels, clip.start) for clip in clips] == [
        ("---1_cCGK4M_000030", ["people whistling"], 30.0)
    ]
    assert bad[0].key.endswith("vggsound_test.csv:2")
    assert bad[0].reason == "'short_000030.mp4' is no name such as ---1_cCGK4M_000030.mp4"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("short,30,rain,test", "'short' is no YouTube id"),
        ("-0abcdefgh1,soon,rain,test", "'soon' is no number of seconds"),
        ("-0abcdefgh1,30,,test", "has no label"),
        ("-0abcdefgh1,30,rain,dev", "is of the split 'dev'; there are train, test"),
        ("-0abcdefgh1,30,rain", "has 3 cells instead of 4"),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_read(tmp_path, row, reason):
    put(tmp_path / "vggsound.csv", TABLE + row + "\n")
    clips, bad = read_split(vggsound, tmp_path, "test")
    assert len(clips) == 2 and [(one.key, one.reason) for one in bad] == [(f"{tmp_path / 'vggsound.csv'}:4", reason)]


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(MissingSplit, match=r"holds no vggsound\.csv or vggsound_train\.csv: VGGSound's table"):
        read_split(vggsound, tmp_path, "train")


@pytest.mark.skipif(not REAL.is_file(), reason="../shared is not here")
def test_the_real_test_table():
    clips, bad = read_split(vggsound, REAL.parent, "test")
    assert (len(clips), bad) == (15_446, []) and len({clip.id for clip in clips}) == 15_446
    assert len({label for clip in clips for label in clip.labels}) == 309
    assert (clips[0].id, clips[0].labels) == ("glLQrEijrKg_000300", ["playing hammond organ"])
