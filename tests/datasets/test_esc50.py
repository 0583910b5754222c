"""ESC-50 from a three-row fixture of the publisher's shape, and from rows of its real table."""

import pytest

from atr.datasets import esc50
from atr.datasets.corpus import MissingSplit
from atr.types import Clip
from tests.conftest import SHARED
from tests.datasets.reading import put, read_split

REAL = SHARED / "data" / "meta" / "esc50.csv"
TABLE = """filename,fold,target,category,esc10,src_file,take
1-100-A-0.wav,1,0,dog,True,100,A
1-100-B-0.wav,1,0,dog,True,100,B
5-200-A-36.wav,5,36,vacuum_cleaner,False,200,A
"""


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "meta" / "esc50.csv", TABLE)
    for name in ("1-100-A-0.wav", "1-100-B-0.wav", "5-200-A-36.ogg"):
        put(tmp_path / "audio" / name)
    return tmp_path


def test_counts_and_the_first_clip(root):
    clips, bad = read_split(esc50, root, "fold1", root)
    assert (len(clips), bad) == (2, [])
    assert clips[0] == Clip(
        id="1-100-A-0", audio=str(root / "audio" / "1-100-A-0.wav"), labels=["dog"], split="fold1",
        source="freesound:100", dataset="ESC-50", licence=esc50.CARD.licence,
    )  # fmt: skip
    clips, bad = read_split(esc50, root, "fold5", root)
    assert (clips[0].labels, clips[0].audio, bad) == (["vacuum_cleaner"], str(root / "audio" / "5-200-A-36.ogg"), [])
    assert read_split(esc50, root, "fold2", root) == ([], [])


def test_what_is_missing_is_named(root):
    (root / "audio" / "1-100-B-0.wav").unlink()
    put(root / "meta" / "esc50.csv", TABLE + "6-1-A-0.wav,6,0,dog,True,1,A\n")
    clips, bad = read_split(esc50, root, "fold1", root)
    assert len(clips) == 1 and [(one.key.rpartition("/")[2], one.reason) for one in bad] == [
        ("1-100-B-0", f"no file 'audio/1-100-B-0.wav' below {root}"),
        ("esc50.csv:5", "is of fold '6'; there are 1 to 5"),
    ]
    with pytest.raises(MissingSplit, match=r"holds no meta/esc50\.csv or esc50\.csv or .*: ESC-50's table"):
        read_split(esc50, root / "audio", "fold1")


@pytest.mark.skipif(not REAL.is_file(), reason="../shared is not here")
def test_rows_of_the_real_table():
    clips = {split: read_split(esc50, REAL.parent, split) for split in esc50.CARD.splits}
    assert not any(bad for _, bad in clips.values())
    assert {split: len(found) for split, (found, _) in clips.items()} == {
        "fold1": 0, "fold2": 11, "fold3": 1, "fold4": 400, "fold5": 2,
    }  # fmt: skip
    assert len({clip.labels[0] for clip in clips["fold4"][0]}) == 50
