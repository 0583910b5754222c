"""Stored features: each clip once, made again where they are missing or damaged, by model and window."""

import shutil
import tarfile

import numpy as np
import pytest
import torch

from atr.errors import DataError
from atr.pipeline.dataset import EvaluationDataset, Listening
from atr.pipeline.features import stored_features, window_key
from atr.shards.read import ShardSet
from atr.shards.write import write_shards
from atr.types import Draw
from tests.conftest import make_clips
from tests.pipeline.test_datamodule import add_to_tar


class Encoder:
    """Some numbers of a waveform; counts the clips."""

    def __init__(self):
        self.clips = 0

    def __call__(self, waveform):
        self.clips += len(waveform)
        return waveform.float()[:, 100:900:100]


@pytest.fixture
def places(tmp_path):
    """Two shards of eight clips."""
    clips = make_clips(tmp_path / "sounds")
    for name, some in (("a", clips[:8]), ("b", clips[8:])):
        write_shards(some, tmp_path / name, codec="flac", progress=False)
    return [tmp_path / "a", tmp_path / "b"]


def make(places, folder, workers=0, seconds=1.0):
    encoder, sets = Encoder(), [ShardSet([place]) for place in places]
    listening = Listening(seconds, 16_000, "")
    return stored_features(sets, listening, encoder, folder, 3, workers), encoder.clips, sets


@pytest.mark.parametrize("workers", [0, 1])
def test_each_clip_is_encoded_once_and_found_by_its_name(places, tmp_path, workers):
    stored, made, sets = make(places, tmp_path / "f", workers)
    assert made == 16 == len(stored) and set(stored) == {s.name(n) for s in sets for n in range(8)}
    again, made, _ = make(places, tmp_path / "f")
    assert made == 0
    dataset = EvaluationDataset(sets[1], Listening(1.0, 16_000, ""))
    for number in range(8):
        waveform = dataset[Draw(number, 0, number, number)][0].waveform
        expected = Encoder()(torch.from_numpy(waveform)[None])[0].numpy()
        assert np.array_equal(stored[sets[1].name(number)], expected)
        assert np.array_equal(again[sets[1].name(number)], expected)
    files = sorted(path.suffix for path in (tmp_path / "f").iterdir())
    assert files == ["", ".safetensors", ".safetensors"]  # and the lock


def test_a_copy_of_a_shard_is_the_same_shard(places, tmp_path):
    make(places, tmp_path / "f")
    shutil.copytree(places[0], tmp_path / "copy")
    assert make([tmp_path / "copy"], tmp_path / "f")[1] == 0


def test_what_a_selection_left_out_is_added_later(places, tmp_path):
    encoder, some = Encoder(), ShardSet([places[0]])
    some.select([1, 4])
    stored = stored_features([some], Listening(1.0, 16_000, ""), encoder, tmp_path / "f", 3, 0)
    assert encoder.clips == 2 == len(stored)
    stored, made, sets = make(places[:1], tmp_path / "f")
    assert made == 6 and len(stored) == 8
    fresh = make(places[:1], tmp_path / "fresh")[0]
    assert all(np.array_equal(stored[sets[0].name(n)], fresh[sets[0].name(n)]) for n in range(8))


def test_a_clip_that_cannot_be_used_has_its_reason_and_is_tried_again(places, tmp_path):
    add_to_tar(places[0] / "00000.tar", [("broken.flac", b"no sound"), ("broken.json", b'{"text": ["a thing"]}')])
    stored, made, sets = make(places, tmp_path / "f")
    name = next(sets[0].name(n) for n in range(9) if "broken" in sets[0].name(n))
    assert made == 16 and name not in set(stored)
    with pytest.raises(DataError, match=r"cannot be decoded \(Format not"):
        stored[name]
    again, made, _ = make(places, tmp_path / "f")
    assert made == 0 and name in again.bad


def test_a_damaged_file_is_told(places, tmp_path):
    make(places, tmp_path / "f")
    file = next((tmp_path / "f").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{file.name} is cut off, or no file of features .*; delete it"):
        make(places, tmp_path / "f")


def test_model_and_window_have_folders_of_their_own():
    keys = [("m", 5.0, 32_000, False), ("n", 5.0, 32_000, False), ("m", 10.0, 32_000, False), ("m", 5.0, 48_000, False),
            ("m", 5.0, 32_000, True)]  # fmt: skip
    assert len({window_key(*key) for key in keys}) == 5 and window_key(*keys[0]) == window_key(*keys[0])


def test_keys_with_a_colon_are_their_own(tmp_path):
    """`b:1` is not `1`."""
    write_shards(make_clips(tmp_path / "sounds", 3), tmp_path / "a", codec="flac", progress=False)
    names = dict(zip(("note00", "note01", "note02"), ("1", "b:1", "a:2"), strict=True))
    with tarfile.open(tmp_path / "a" / "00000.tar") as old, tarfile.open(tmp_path / "odd.tar", "w") as new:
        for member in old.getmembers():
            content = old.extractfile(member)
            key, _, suffix = member.name.partition(".")
            member.name = f"{names[key]}.{suffix}"
            new.addfile(member, content)
    stored, made, (shards,) = make([tmp_path / "odd.tar"], tmp_path / "f")
    dataset = EvaluationDataset(shards, Listening(1.0, 16_000, ""))
    assert made == 3
    for number in range(3):
        waveform = dataset[Draw(number, 0, number, number)][0].waveform
        expected = Encoder()(torch.from_numpy(waveform)[None])[0].numpy()
        assert np.array_equal(stored[shards.name(number)], expected)
