"""Embeddings of any model and tables of relevant pairs: read as they are, or refused by name."""

import numpy as np
import pytest
import torch

from atr.errors import DataError
from atr.evaluation.files import read_embeddings, read_relevance
from atr.evaluation.retrieval import retrieval
from tests.evaluation.ranks_child import ragged

CAPTIONS = ["rain falls", "a dog barks", "rain falls", "wind, and rain"]
IDS = ["rain.wav", "dog.wav", "storm.wav"]


@pytest.fixture
def arrays():
    audio, text, owner = ragged(clips=6, captions=20)
    ids = np.array([f"clip{number}" for number in range(6)])
    return {"audio": audio.numpy(), "text": text.numpy(), "clip_of_text": owner.numpy(), "ids": ids}


def stored(folder, arrays):
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def test_what_was_stored_is_read(tmp_path, arrays):
    audio, text, owner, ids = read_embeddings(stored(tmp_path, arrays | {"captions": np.array(["other"])}))
    for found, name in ((audio, "audio"), (text, "text"), (owner, "clip_of_text")):
        assert torch.equal(found, torch.from_numpy(arrays[name]))
    assert ids == [f"clip{number}" for number in range(6)]
    del arrays["ids"]
    assert read_embeddings(stored(tmp_path, arrays))[3] == ["0", "1", "2", "3", "4", "5"]


def test_other_kinds_of_numbers_are_taken(tmp_path, arrays):
    expected = retrieval(*read_embeddings(stored(tmp_path, arrays))[:3])
    doubles = {name: arrays[name].astype(np.float64) for name in ("audio", "text")}
    small = {"clip_of_text": arrays["clip_of_text"].astype(np.int16), "ids": np.arange(6)}
    audio, text, owner, ids = read_embeddings(stored(tmp_path, doubles | small))
    assert (audio.dtype, owner.dtype, ids[5]) == (torch.float32, torch.int64, "5")
    assert retrieval(audio, text, owner) == expected
    halves = {name: arrays[name].astype(np.float16) for name in ("audio", "text")}
    assert read_embeddings(stored(tmp_path, arrays | halves))[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": None}, r"has no array 'text' \(it has audio, clip_of_text, ids\); it should hold audio \(N, D\)"),
        ({"clip_of_text": None}, "has no array 'clip_of_text'"),
        ({"audio": np.ones((6, 16), np.int64)}, "audio is of int64; it should hold"),
        ({"clip_of_text": np.zeros(20)}, "clip_of_text is of float64; it should hold"),
        ({"audio": np.ones(16, np.float32)}, r"audio has shape \(16,\); allowed: a row a clip"),
        ({"audio": np.zeros((0, 16), np.float32), "ids": np.array([], str)}, r"audio has shape \(0, 16\).*no number is"),
        ({"text": np.ones((20, 8), np.float32)}, "audio is 16 wide, text 8"),
        ({"clip_of_text": np.zeros(19, np.int64)}, r"clip_of_text has shape \(19,\); allowed: \(20,\)"),
        ({"clip_of_text": np.full(20, 6)}, "clip_of_text names clip 6; allowed: 0 to 5"),
        ({"clip_of_text": np.full(20, -1)}, "clip_of_text names clip -1"),
        ({"text": np.full((20, 16), np.nan, np.float32)}, r"caption 0 is NaN or infinite \(20 of 20 are\)"),
        ({"audio": np.full((6, 16), 0.5, np.float32)}, r"row 0 of audio has norm 2 \(6 of 6 are not 1\).*linalg.norm"),
        ({"ids": np.array(["a", "b", "c", "b", "d", "e"])}, "two clips have the id 'b'"),
        ({"ids": np.array(["a"])}, "1 ids for 6 clips"),
        ({"ids": np.array(["a", None, 1, 2, 3, 4], object)}, "is no .npz of plain arrays"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, arrays, change, words):
    changed = {name: value for name, value in (arrays | change).items() if value is not None}
    path = stored(tmp_path, changed)
    with pytest.raises(DataError, match=rf"set\.npz:? .*{words}"):
        read_embeddings(path)


def test_other_files_are_refused(tmp_path, arrays):
    for name, content in (("none.npz", None), ("text.npz", b"audio,text\n"), ("array.npz", b"")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is n"):
            read_embeddings(tmp_path / name)
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, arrays["audio"])
    with pytest.raises(DataError, match=r"one\.npz is no \.npz of plain arrays"):
        read_embeddings(tmp_path / "one.npz")
    whole = stored(tmp_path, arrays).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="or damaged"):
        read_embeddings(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    "table",
    [
        "caption,clip\nrain falls,rain.wav\nrain falls,storm.wav\n\"wind, and rain\",storm.wav\n",
        "clip,note,caption\nrain.wav,,rain falls\nstorm.wav,x, rain falls \nstorm.wav,,\"wind, and rain\"\n",
        "query,audio_filenames\nrain falls,\"['rain.wav', 'storm.wav']\"\n\"wind, and rain\",\"['storm.wav']\"\n",
    ],
)  # fmt: skip
def test_both_forms_of_a_table_give_pairs(tmp_path, table):
    (tmp_path / "table.csv").write_text(table)
    assert read_relevance(tmp_path / "table.csv", CAPTIONS, IDS) == [(0, 0), (0, 2), (3, 2)]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("caption,clip\nrain falls,rain.wav\na cat,rain.wav\n", r"e.csv:3: no clip of the set has the caption 'a cat'"),
        ("caption,clip\nrain falls,snow.wav\n", r"csv:2: the set has no clip 'snow.wav'; its ids are like 'rain.wav'"),
        ("caption,audio\nrain falls,rain.wav\n", "has no column 'clip'; its columns are 'caption', 'audio'"),
        ("caption,clip\n", "names no pair"),
        ("caption,clip\nrain falls\n", "table.csv:2: has 1 cells instead of 2"),
        ("query,audio_filenames\nrain falls,rain.wav\n", "audio_filenames is 'rain.wav'; allowed: a list"),
        ("query,audio_filenames\nrain falls,[]\n", r"audio_filenames is '\[\]'; allowed: a list"),
        ("query,audio_filenames\nrain falls,__import__('os').getcwd()\n", "allowed: a list"),
        ("query,audio_filenames\nrain falls,\"['rain.wav', 'snow.wav']\"\n", "the set has no clip 'snow.wav'"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_the_set_are_refused(tmp_path, table, words):
    (tmp_path / "table.csv").write_text(table)
    with pytest.raises(DataError, match=words):
        read_relevance(tmp_path / "table.csv", CAPTIONS, IDS)
    with pytest.raises(DataError, match="none"):
        read_relevance(tmp_path / "none.csv", CAPTIONS, IDS)
