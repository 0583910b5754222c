"""LAION-Audio from a three-pair fixture of the publisher's shape."""

import json

import pytest

from atr.datasets import laion_audio
from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw
from atr.errors import DataError
from atr.types import BadSample, Clip

FIRST = {
    "text": ["Rain on a roof", "It rains."],
    "tag": ["rain", "roof"],
    "original_data": {"title": "Rain on a roof.wav", "id": 100, "license": "CC0", "username": "a"},
}


def pair(folder, name, fields):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.flac").touch()
    (folder / f"{name}.json").write_text(fields if isinstance(fields, str) else json.dumps(fields))


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "freesound_no_overlap" / "train"
    pair(folder, "1", FIRST)
    pair(folder, "10", {"text": "A dog.", "tag": "dog"})
    pair(folder, "2", {"text": ["A cat."]})
    pair(tmp_path / "BBC" / "test", "1", {"text": ["A bell."], "original_data": {"id": 7}})
    return Raw(tmp_path, AudioFiles(tmp_path))


def test_counts_and_the_first_clip(raw):
    assert laion_audio.splits(raw) == ["test", "train"]
    clips = list(laion_audio.read(raw, "train"))
    assert clips[0] == Clip(
        id="freesound_no_overlap_1", audio=str(raw.root / "freesound_no_overlap" / "train" / "1.flac"),
        captions=["Rain on a roof", "It rains."], labels=["rain", "roof"], split="train", title="Rain on a roof.wav",
        source="freesound:100", dataset="LAION-Audio-630K", licence="CC0",
    )  # fmt: skip
    assert [(clip.id, clip.captions, clip.labels) for clip in clips[1:]] == [
        ("freesound_no_overlap_2", ["A cat."], []), ("freesound_no_overlap_10", ["A dog."], ["dog"]),
    ]  # fmt: skip
    assert [(clip.id, clip.source) for clip in laion_audio.read(raw, "test")] == [("BBC_1", "")]


def test_pairs_that_give_no_clip_are_named(raw):
    folder = raw.root / "BBC" / "test"
    pair(folder, "2", "{")
    pair(folder, "3", [])
    pair(folder, "4", {"text": []})
    pair(folder, "5", {"text": [7]})
    pair(folder, "9", '{"text": ["\\ud800"]}')
    (folder / "6.flac").touch()
    (folder / "7.json").write_text("{}")
    pair(folder, "8", {"text": ["a"]})
    (folder / "8.wav").touch()
    (folder / "sizes.json").write_text("{}")
    (folder / "notes.txt").touch()
    found = [one for one in laion_audio.read(raw, "test") if isinstance(one, BadSample)]
    assert [one.key for one in found] == [f"{folder}/{number}" for number in range(2, 10)]
    reasons = [
        "2.json is no JSON", "3.json is a list, not an object with text and tag", "4.json has no text",
        "5.json: its json has a `text` of type list; allowed", "has no json", "has no sound",
        "stands for 2 sounds; keep one",
        "9.json is no JSON ('utf-8' codec can't encode",
    ]  # fmt: skip
    assert [one.reason[: len(reason)] for one, reason in zip(found, reasons, strict=True)] == reasons


def test_shards_are_not_prepared(raw):
    folder = raw.root / "shards" / "valid"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=r"valid: holds no pairs N\.flac and N\.json"):
        list(laion_audio.read(raw, "valid"))
    (folder / "0.tar").touch()
    (folder / "sizes.json").write_text("{}")
    with pytest.raises(DataError, match=r"valid: holds shards, which need no preparation; name it in data\.train"):
        list(laion_audio.read(raw, "valid"))


def test_a_split_that_is_not_there(raw):
    with pytest.raises(MissingSplit, match="holds no folder DATASET/valid"):
        list(laion_audio.read(raw, "valid"))
