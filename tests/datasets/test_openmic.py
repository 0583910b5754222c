"""OpenMIC-2018 from three-row fixtures of the publisher's tables, and from AudioSetCaps' table."""

import pytest

from atr.datasets import openmic
from atr.datasets.corpus import MissingSplit
from atr.types import Clip
from tests.datasets.reading import put, read_split

LABELS = """sample_key,instrument,relevance,num_responses
000046_3840,clarinet,0.17,3
000046_3840,flute,0.5,3
000046_3840,trumpet,0.9,3
"""
ABOUT = """track_id,license_title,track_title,sample_key,start_time
46,Attribution,Yosemite,000046_3840,0.08
"""


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "partitions" / "split01_train.csv", "000046_3840\n000135_483840\n")
    put(tmp_path / "openmic-2018-aggregated-labels.csv", LABELS)
    put(tmp_path / "openmic-2018-metadata.csv", ABOUT)
    put(tmp_path / "audio" / "000" / "000046_3840.ogg")
    put(tmp_path / "audio" / "000" / "000135_483840.ogg")
    return tmp_path


def test_counts_and_the_first_clip(root):
    clips, bad = read_split(openmic, root, "train", root)
    assert clips[0] == Clip(
        id="000046_3840", audio=str(root / "audio" / "000" / "000046_3840.ogg"), labels=["flute", "trumpet"],
        split="train", title="Yosemite", source="fma:46", dataset="OpenMIC-2018", licence="Attribution",
    )  # fmt: skip
    assert [(clip.labels, clip.licence, clip.source) for clip in clips[1:]] == [([], openmic.CARD.licence, "fma:135")]
    assert bad == []


def test_the_folder_of_the_archive(root):
    inner = root / "openmic-2018"
    for name in ("partitions", "openmic-2018-aggregated-labels.csv", "openmic-2018-metadata.csv", "audio"):
        inner.mkdir(exist_ok=True)
        (root / name).rename(inner / name)
    clips, bad = read_split(openmic, root, "train", root)
    assert [(clip.title, len(clip.labels)) for clip in clips] == [("Yosemite", 2), ("", 0)] and not bad


def test_the_table_of_audiosetcaps(root):
    rows = "filepath,instrument\nopenmic-2018/audio/000/000135_483840.ogg,voice\n"
    put(root / "OpenMIC-2018_test.csv", rows)
    ((clip,), bad) = read_split(openmic, root, "zero_shot", root)
    assert (clip.id, clip.labels, clip.source, clip.split, bad) == (
        "000135_483840",
        ["voice"],
        "fma:135",
        "zero_shot",
        [],
    )
    assert clip.audio == str(root / "audio" / "000" / "000135_483840.ogg")


def test_what_is_missing_or_wrong_is_named(root):
    put(root / "partitions" / "split01_train.csv", "000046_3840\nsong\n")
    put(root / "openmic-2018-aggregated-labels.csv", LABELS + "000046_3840,voice,yes,3\n")
    clips, bad = read_split(openmic, root, "train", root)
    assert len(clips) == 1 and [(one.key.rpartition("/")[2], one.reason) for one in bad] == [
        ("openmic-2018-aggregated-labels.csv:5", "relevance is 'yes'; it is a number from 0 to 1"),
        ("split01_train.csv:2", "'song' is no key such as 000046_3840"),
    ]
    with pytest.raises(MissingSplit, match=r"partitions/split01_test\.csv or .*: one of the tables in openmic"):
        read_split(openmic, root, "test")
    with pytest.raises(MissingSplit, match=r"holds no OpenMIC-2018_test\.csv: AudioSetCaps' table"):
        read_split(openmic, root, "zero_shot")
