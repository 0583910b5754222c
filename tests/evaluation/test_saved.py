"""Encoded sets as files: what was written comes back, without pickles, and nothing else is taken for one."""

import dataclasses
import pickle

import numpy as np
import pytest

from atr.errors import DataError
from atr.evaluation.saved import SavedSet, read_saved, write_saved
from tests.evaluation.made import saved

LISTS = ("ids", "captions", "labels", "titles", "folds", "places")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "notes.npz"


def test_what_was_written_comes_back(path):
    one = dataclasses.replace(
        saved(), titles=["ä <b>", *saved().titles[1:]], labels=[["a", "b"], [], *saved().labels[2:]]
    )
    write_saved(path, one)
    back = read_saved(path)
    for name in LISTS:
        assert list(getattr(back, name)) == list(getattr(one, name)), name
    for name in ("audio", "text", "clip_of_text"):
        assert np.array_equal(getattr(back, name), getattr(one, name)), name
        assert getattr(back, name).dtype == getattr(one, name).dtype
    assert [one.name for one in path.parent.iterdir()] == ["notes.npz"]


def test_a_set_without_captions_comes_back(path):
    one = saved()
    none = dataclasses.replace(one, text=one.text[:0], clip_of_text=one.clip_of_text[:0], captions=[])
    write_saved(path, none)
    assert read_saved(path).text.shape == (0, 8) and read_saved(path).captions == []


def write(path, **columns):
    write_saved(path, saved())
    with np.load(path) as file:
        whole = {name: file[name] for name in file.files}
    np.savez(path, **{name: value for name, value in (whole | columns).items() if value is not None})


@pytest.mark.parametrize(
    "columns, reason",
    [
        ({"audio": None}, "KeyError"),
        ({"audio": np.zeros((3, 8), np.float32)}, "12 clips and 24 captions, but audio"),
        ({"text": np.zeros((24, 9), np.float32)}, "text .24, 9."),
        ({"text": np.zeros(24, np.float32)}, "text .24,."),
        ({"titles": np.array(["a"])}, "titles or folds of another number"),
        ({"clip_of_text": np.full(24, 12)}, "captions of clips that are not there"),
        ({"clip_of_text": np.full(24, -1)}, "captions of clips that are not there"),
        ({"audio": np.full((12, 8), np.nan, np.float32)}, "NaN or infinite"),
        ({"labels": np.array("{")}, "JSONDecodeError"),
        ({"ids": np.array([{}] * 12, object)}, "allow_pickle=False"),
    ],
)
def test_columns_that_do_not_fit_are_refused(path, columns, reason):
    write(path, **columns)
    with pytest.raises(DataError, match=f"holds no embeddings of `atr eval`.*{reason}.*make it with --out FOLDER"):
        read_saved(path)


def test_other_and_damaged_files_are_refused(path):
    write_saved(path, saved())
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no zip at all", pickle.dumps(SavedSet)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="holds no embeddings"):
            read_saved(path)
    path.unlink()
    with pytest.raises(DataError, match=r"holds no embeddings of `atr eval` .FileNotFoundError"):
        read_saved(path)
