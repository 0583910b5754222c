"""UrbanSound8K from a three-row fixture of the publisher's shape, and from its real table and two real folds."""

import pytest

from atr.datasets import urbansound8k
from atr.datasets.corpus import MissingSplit
from atr.shards.write import write_shards
from atr.types import Clip
from tests.conftest import SHARED
from tests.datasets.reading import put, read_split

TABLE = """slice_file_name,fsID,start,end,salience,fold,classID,class
100-3-0-0.wav,100,12.5,13.25,1,1,3,dog_bark
100-3-0-1.wav,100,20.0,24.0,2,1,3,dog_bark
200-8-0-0.wav,200,0.0,4.0,1,10,8,siren
"""
REAL = SHARED / "data" / "urbansound8k"


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "metadata" / "UrbanSound8K.csv", TABLE)
    for name in ("fold1/100-3-0-0.wav", "fold1/100-3-0-1.ogg", "fold10/200-8-0-0.wav"):
        put(tmp_path / "audio" / name)
    return tmp_path


def test_counts_and_the_first_clip(root):
    clips, bad = read_split(urbansound8k, root, "fold1", root)
    assert (len(clips), bad) == (2, [])
    assert clips[0] == Clip(  # start and end stay empty: the table's are places in another recording
        id="100-3-0-0", audio=str(root / "audio" / "fold1" / "100-3-0-0.wav"), labels=["dog_bark"], split="fold1",
        source="freesound:100", dataset="UrbanSound8K", licence=urbansound8k.CARD.licence,
    )  # fmt: skip
    assert clips[1].audio == str(root / "audio" / "fold1" / "100-3-0-1.ogg")
    assert [clip.labels for clip in read_split(urbansound8k, root, "fold10", root)[0]] == [["siren"]]


def test_what_is_missing_is_named(root):
    (root / "audio" / "fold1" / "100-3-0-1.ogg").unlink()
    put(root / "metadata" / "UrbanSound8K.csv", TABLE + "1-3-0-0.wav,1,0,4,1,11,3,dog_bark\n")
    clips, bad = read_split(urbansound8k, root, "fold1", root)
    assert len(clips) == 1 and [(one.key.rpartition("/")[2], one.reason) for one in bad] == [
        ("100-3-0-1", f"no file 'audio/fold1/100-3-0-1.wav' below {root}"),
        ("UrbanSound8K.csv:5", "is of fold '11'; there are 1 to 10"),
    ]
    with pytest.raises(MissingSplit, match=r"holds no metadata/UrbanSound8K\.csv or .*: UrbanSound8K's table"):
        read_split(urbansound8k, root / "audio", "fold1")


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared is not here")
def test_the_real_table_and_two_real_folds(tmp_path):
    (tmp_path / "UrbanSound8K.csv").symlink_to(SHARED / "data" / "meta" / "UrbanSound8K.csv")
    for fold in ("fold1", "fold2"):
        (tmp_path / fold).symlink_to(REAL / fold)
    folds = {split: read_split(urbansound8k, tmp_path, split) for split in urbansound8k.CARD.splits}
    assert not any(bad for _, bad in folds.values())
    assert [len(clips) for clips, _ in folds.values()] == [873, 888, 925, 990, 936, 823, 838, 806, 816, 837]
    assert len({clip.labels[0] for clips, _ in folds.values() for clip in clips}) == 10
    found = [read_split(urbansound8k, tmp_path, split, tmp_path) for split in ("fold1", "fold2", "fold3")]
    assert [(len(clips), len(bad)) for clips, bad in found] == [(873, 0), (888, 0), (0, 925)]
    apart, bad = read_split(urbansound8k, SHARED / "data" / "meta", "fold2", REAL)  # table and sounds in two places
    assert (len(apart), bad) == (888, [])
    first = found[0][0][0]
    assert (first.id, first.audio) == ("101415-3-0-2", str(tmp_path / "fold1" / "101415-3-0-2.ogg"))
    written = write_shards(found[0][0][:20], tmp_path / "shards")
    assert (written.clips, written.rejected) == (20, [])
