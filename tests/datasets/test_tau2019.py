"""TAU Urban Acoustic Scenes 2019 from a three-row fixture of the publisher's shape."""

import pytest

from atr.datasets import tau2019
from atr.datasets.corpus import MissingSplit
from atr.types import Clip
from tests.datasets.reading import put, read_split

TRAIN = """filename\tscene_label
audio/airport-barcelona-0-0-a.wav\tairport
audio/street_traffic-helsinki-12-34-a.wav\tstreet_traffic
"""
TEST = "filename\tscene_label\naudio/tram-lyon-5-6-a.wav\ttram\n"
FOLDER = "TAU-urban-acoustic-scenes-2019-development"


def test_counts_and_the_first_clip(tmp_path):
    put(tmp_path / "evaluation_setup" / "fold1_train.csv", TRAIN)
    put(tmp_path / "evaluation_setup" / "fold1_evaluate.csv", TEST)
    path = put(tmp_path / "audio" / "airport-barcelona-0-0-a.wav")
    put(tmp_path / "audio" / "street_traffic-helsinki-12-34-a.wav")
    clips, bad = read_split(tau2019, tmp_path, "train", tmp_path)
    assert (len(clips), bad) == (2, [])
    assert clips[0] == Clip(
        id="airport-barcelona-0-0-a", audio=str(path), labels=["airport"], split="train",
        source="tau2019:airport-barcelona-0-0", dataset="TAU Urban Acoustic Scenes 2019",
        licence=tau2019.CARD.licence,
    )  # fmt: skip
    assert [(clip.id, clip.labels) for clip in read_split(tau2019, tmp_path, "test")[0]] == [
        ("tram-lyon-5-6-a", ["tram"])
    ]


def test_the_folder_of_the_archives_and_sounds_elsewhere(tmp_path):
    put(tmp_path / FOLDER / "evaluation_setup" / "fold1_evaluate.csv", TEST)
    path = put(tmp_path / FOLDER / "audio" / "tram-lyon-5-6-a.flac")
    clips, bad = read_split(tau2019, tmp_path, "test", tmp_path)
    assert ([clip.audio for clip in clips], bad) == ([str(path)], [])


def test_what_is_missing_or_wrong_is_named(tmp_path):
    with pytest.raises(
        MissingSplit, match=r"holds no evaluation_setup/fold1_train\.csv or .*, from the archive `meta`"
    ):
        read_split(tau2019, tmp_path, "train")
    wrong = "audio/0.wav\ttram\naudio/tram-lyon-5-7-a.wav\t\n"
    table = put(tmp_path / "evaluation_setup" / "fold1_evaluate.csv", TEST + wrong)
    clips, bad = read_split(tau2019, tmp_path, "test", tmp_path)
    assert not clips and [(one.key, one.reason) for one in bad] == [
        ("tram-lyon-5-6-a", f"no file 'audio/tram-lyon-5-6-a.wav' below {tmp_path}"),
        (f"{table}:3", "'audio/0.wav' is no name as scene-city-location-segment-device.wav"),
        (f"{table}:4", "has no scene_label"),
    ]


def test_downloads_are_the_table_and_21_parts():
    first, *parts = tau2019.CARD.downloads
    assert first.url == f"https://zenodo.org/records/2589280/files/{FOLDER}.meta.zip"
    assert (first.path, first.checksum) == (f"{FOLDER}.meta.zip", "md5:09782f2097e4735687af73c44919329c")
    assert len(parts) == 21 and len({one.checksum for one in parts}) == 21 and all(one.unpack for one in parts)
