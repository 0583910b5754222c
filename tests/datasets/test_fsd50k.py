"""FSD50K from a three-row fixture of the publisher's shape."""

import json

import pytest

from atr.datasets import fsd50k
from atr.datasets.corpus import MissingSplit
from atr.errors import DataError
from atr.types import Clip
from tests.datasets.reading import put, read_split

DEV = """fname,labels,mids,split
64760,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",train
16399,Rain,/m/06mb1,val
16401,Rain,/m/06mb1,train
"""
EVAL = 'fname,labels,mids\n37199,"Purr,Cat","/m/02yds9,/m/01yrx"\n'
BY = "http://creativecommons.org/licenses/by/3.0/"
ABOUT = {"64760": {"title": "riff.wav", "description": "", "tags": ["guitar"], "license": BY, "uploader": "ann"}}


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "FSD50K.ground_truth" / "dev.csv", DEV)
    put(tmp_path / "FSD50K.ground_truth" / "eval.csv", EVAL)
    put(tmp_path / "FSD50K.metadata" / "dev_clips_info_FSD50K.json", json.dumps(ABOUT))
    for name in ("FSD50K.dev_audio/64760.wav", "FSD50K.dev_audio/16399.wav", "FSD50K.eval_audio/37199.wav"):
        put(tmp_path / name)
    return tmp_path


def test_counts_and_the_first_clip(root):
    clips, bad = read_split(fsd50k, root, "train", root)
    assert clips == [
        Clip(
            id="64760", audio=str(root / "FSD50K.dev_audio" / "64760.wav"), split="train", title="riff.wav",
            labels=["Electric_guitar", "Guitar", "Music"], source="freesound:64760", dataset="FSD50K", licence=BY,
        )
    ]  # fmt: skip
    assert [(one.key, one.reason) for one in bad] == [("16401", f"no file 'FSD50K.dev_audio/16401.wav' below {root}")]
    ((validation,), bad) = read_split(fsd50k, root, "validation", root)
    assert (validation.id, validation.title, validation.licence, bad) == ("16399", "", fsd50k.CARD.licence, [])
    ((test,), bad) = read_split(fsd50k, root, "test", root)
    assert (test.id, test.labels, test.split, bad) == ("37199", ["Purr", "Cat"], "test", [])


def test_what_is_missing_or_wrong_is_named(root):
    table = put(root / "FSD50K.ground_truth" / "dev.csv", DEV + "1,Rain,/m/06mb1,test\n2,,,train\n")
    clips, bad = read_split(fsd50k, root, "train")
    assert len(clips) == 2 and [(one.key, one.reason) for one in bad] == [
        (f"{table}:5", "is of the split 'test'; there are train and val"), (f"{table}:6", "has no label"),
    ]  # fmt: skip
    about = put(root / "FSD50K.metadata" / "dev_clips_info_FSD50K.json", "{")
    with pytest.raises(
        DataError, match=r"dev_clips_info_FSD50K\.json: is no JSON .* unpack FSD50K\.metadata\.zip again"
    ):
        read_split(fsd50k, root, "train")
    put(about, '{"1": "riff"}')
    with pytest.raises(DataError, match="is no object of objects by Freesound id"):
        read_split(fsd50k, root, "train")
    (root / "FSD50K.ground_truth" / "eval.csv").unlink()
    with pytest.raises(MissingSplit, match=r"eval\.csv is missing: FSD50K's table, from FSD50K\.ground_truth\.zip"):
        read_split(fsd50k, root, "test")


def test_only_whole_archives_are_unpacked():
    assert [one.path for one in fsd50k.CARD.downloads if one.unpack] == [
        "FSD50K.ground_truth.zip",
        "FSD50K.metadata.zip",
    ]
    assert len(fsd50k.CARD.downloads) == 10 and all(one.checksum.startswith("md5:") for one in fsd50k.CARD.downloads)
