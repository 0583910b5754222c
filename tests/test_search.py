"""Search is exact: against brute force, with windows, in pieces, with FAISS; and other weights are refused."""

import numpy as np
import pytest

import atr
from atr import search as module
from atr.collection import Collection, write_collection
from atr.embed import embed
from atr.errors import CheckpointError, DataError, UsageError
from atr.search import search, search_file
from tests.conftest import make_clips
from tests.test_embed import other_weights


def collection(clips=300, most=4, dim=16):
    """Random unit vectors: 1 to `most` rows for each clip."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, most + 1, clips)
    vectors = rng.standard_normal((counts.sum(), dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    starts = np.concatenate([np.arange(count) * 1.0 for count in counts])
    ids = np.repeat([f"clip{number}" for number in range(clips)], counts)
    return Collection(ids, starts, starts + 1, np.repeat(counts * 1.0, counts), vectors)


def brute_force(collection, text, top):
    """(id, score, start) by comparing every row, one at a time."""
    best = {}
    for row, name in enumerate(collection.ids.tolist()):
        score = float(np.dot(collection.vectors[row].astype(np.float64), text.astype(np.float64)))
        if name not in best or score > best[name][0]:
            best[name] = (score, collection.starts[row])
    ranked = sorted(best.items(), key=lambda item: -item[1][0])[:top]
    return [(name, score, start) for name, (score, start) in ranked]


@pytest.mark.parametrize("products", [1 << 24, 64, 1])
@pytest.mark.parametrize("most", [1, 4])
def test_against_brute_force(monkeypatch, products, most):
    monkeypatch.setattr(module, "PRODUCTS", products)
    whole = collection(most=most)
    text = collection(5, 1).vectors[:5] * np.array([1, -1, 1, -1, 1], np.float32)[:, None]
    found = search(whole, text, 7)
    for query, hits in zip(text, found, strict=True):
        expected = brute_force(whole, query, 7)
        assert [hit.id for hit in hits] == [name for name, _, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score, _ in expected], abs=1e-5)
        assert [hit.start for hit in hits] == [start for _, _, start in expected]
        assert [hit.id for hit in hits] != [name for name, _, _ in brute_force(whole, query[::-1], 7)]  # a control
    assert len(search(whole, text, 1000)[0]) == 300


def test_faiss_gives_the_same(monkeypatch):
    pytest.importorskip("faiss")
    whole, text = collection(), collection(5, 1).vectors[:5]
    expected = search(whole, text, 9)
    used = []
    by_faiss = module._by_faiss
    monkeypatch.setattr(module, "_by_faiss", lambda *given: used.append(1) or by_faiss(*given))
    monkeypatch.setattr(module, "FAISS_ROWS", 1)
    monkeypatch.setattr(module, "FAISS_TEXTS", 1)
    found = search(whole, text, 9)
    assert used and [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in expected]


def test_a_file_is_searched_with_the_model_that_made_it(trained, tmp_path):
    clips = make_clips(tmp_path / "sounds", 8)
    path = tmp_path / "out.npz"
    embed(trained, [tmp_path / "sounds"], path)
    (hits,) = search_file(path, ["a low note"], 3)
    model = atr.load(trained)
    cosine = model.similarity(model.encode_audio([clip.audio for clip in clips]), model.encode_text("a low note"))
    order = cosine[:, 0].argsort(descending=True)[:3].tolist()
    assert [hit.id for hit in hits] == [f"note{row:02d}.wav" for row in order]
    assert [hit.score for hit in hits] == pytest.approx(cosine[order, 0].tolist(), abs=1e-5)
    with pytest.raises(CheckpointError, match=r"was made with other weights than those in .*other"):
        search_file(path, ["a"], 3, other_weights(trained, tmp_path / "other.safetensors"))
    with pytest.raises(UsageError, match="give at least one text"):
        search_file(path, [" "])
    with pytest.raises(DataError, match="is not there"):
        search_file(tmp_path / "gone.npz", ["a"])


def test_a_model_that_has_moved_is_named(tmp_path):
    whole = collection()
    whole.about = {"checkpoint": str(tmp_path / "gone.ckpt"), "weights": "0"}
    write_collection(whole, tmp_path / "x.npz")
    with pytest.raises(CheckpointError, match=r"gone\.ckpt is not there.*name where it is with --model"):
        search_file(tmp_path / "x.npz", ["a"])
