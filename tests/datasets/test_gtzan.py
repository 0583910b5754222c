"""GTZAN from three files named as the publisher's, and from AudioSetCaps' table."""

import pytest

from atr.datasets import gtzan
from atr.datasets.corpus import MissingSplit
from atr.types import Clip
from tests.datasets.reading import put, read_split


def test_counts_and_the_first_clip(tmp_path):
    for name in ("blues/blues.00000.wav", "hiphop/hiphop.00099.wav", "rock/rock.00007.wav", "rock/._rock.00007.wav"):
        put(tmp_path / "genres" / name)
    clips, bad = read_split(gtzan, tmp_path, "all", tmp_path)
    assert clips[0] == Clip(
        id="blues.00000", audio=str(tmp_path / "genres" / "blues" / "blues.00000.wav"), labels=["blues"], split="all",
        source="gtzan:blues.00000", dataset="GTZAN", licence="none stated",
    )  # fmt: skip
    assert [clip.labels for clip in clips[1:]] == [["hiphop"], ["rock"]]
    path = tmp_path / "genres" / "rock" / "._rock.00007.wav"
    assert [(one.key, one.reason) for one in bad] == [("._rock.00007", f"{path} is no name such as blues.00000.wav")]


def test_the_table_of_audiosetcaps(tmp_path):
    put(tmp_path / "GTZAN_test.csv", "Audio Path,Music Genre\n/home/x/genres/jazz/jazz.00043.wav,jazz\n,pop\nq.wav,\n")
    path = put(tmp_path / "jazz" / "jazz.00043.ogg")
    clips, bad = read_split(gtzan, tmp_path, "all", tmp_path)
    assert [(clip.id, clip.audio, clip.labels, clip.source) for clip in clips] == [
        ("jazz.00043", str(path), ["jazz"], "gtzan:jazz.00043")
    ]
    assert [(one.key.rpartition("/")[2], one.reason) for one in bad] == [
        ("GTZAN_test.csv:3", "has no Audio Path"), ("GTZAN_test.csv:4", "has no Music Genre"),
    ]  # fmt: skip


def test_no_sounds_at_all(tmp_path):
    with pytest.raises(
        MissingSplit, match=r"no sound files below .*: the labels stand in their names, e\.g\. blues\.0"
    ):
        read_split(gtzan, tmp_path, "all", tmp_path)
