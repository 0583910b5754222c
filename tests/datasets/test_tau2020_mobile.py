"""TAU Urban Acoustic Scenes 2020 Mobile from a fixture, and from the real tables of the three-class setup."""

from collections import Counter

import pytest

from atr.datasets import tau2020_mobile
from atr.datasets.corpus import MissingSplit
from atr.types import Clip
from tests.conftest import SHARED
from tests.datasets.reading import put, read_split

REAL = SHARED / "data" / "meta" / "tau2020_mobile_3class"
TRAIN = """filename\tscene_label
audio/park-paris-3-77-a.wav\tpark
audio/park-paris-3-77-s1.wav\tpark
audio/park-paris-3-78-b.wav\tpark
"""


def test_counts_and_the_first_clip_and_devices_share_a_source(tmp_path):
    put(tmp_path / "evaluation_setup" / "fold1_train.csv", TRAIN)
    clips, bad = read_split(tau2020_mobile, tmp_path, "train")
    assert (len(clips), bad) == (3, [])
    assert clips[0] == Clip(
        id="park-paris-3-77-a", audio="audio/park-paris-3-77-a.wav", labels=["park"], split="train",
        source="tau2020:park-paris-3-77", dataset="TAU Urban Acoustic Scenes 2020 Mobile",
        licence=tau2020_mobile.CARD.licence,
    )  # fmt: skip
    assert [clip.source for clip in clips[1:]] == ["tau2020:park-paris-3-77", "tau2020:park-paris-3-78"]
    with pytest.raises(MissingSplit, match=r"fold1_evaluate\.csv: TAU Urban Acoustic Scenes 2020 Mobile's table"):
        read_split(tau2020_mobile, tmp_path, "test")


def test_downloads_are_the_table_and_16_parts():
    assert len({one.checksum for one in tau2020_mobile.CARD.downloads}) == 17
    assert tau2020_mobile.CARD.downloads[1].url.endswith(
        "/3819968/files/TAU-urban-acoustic-scenes-2020-mobile-development.audio.1.zip"
    )


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared is not here")
def test_the_real_table_of_three_classes():
    clips, bad = read_split(tau2020_mobile, REAL, "train")
    assert (len(clips), bad) == (9_185, []) and len({clip.source for clip in clips}) == 9_185
    labels = Counter(clip.labels[0] for clip in clips)
    assert labels == {"indoor": 2_704, "outdoor": 3_757, "transportation": 2_724}
    assert len({clip.id.split("-")[0] for clip in clips}) == 10
