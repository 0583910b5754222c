"""Places counted block by block, against the whole matrix."""

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atr.evaluation import places
from atr.evaluation.places import distinct, find_places


def unit(rows, width=16, seed=0):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def whole_matrix(queries, candidates, query, candidate):
    """In float64, where equal rows are equal and nothing else is near."""
    scores = queries.double() @ candidates.double().T
    own = scores[query, candidate, None]
    near = (scores[query] - own).abs() < 1e-9
    return ((scores[query] > own) & ~near).sum(1).numpy(), near.sum(1).numpy()


def example(seed, clips=40, captions=150):
    """Captions of which some come several times, and some clips, too; pairs in any order."""
    generator = torch.Generator().manual_seed(seed)
    text = unit(captions, seed=seed)[torch.randint(captions, (captions,), generator=generator)]
    audio = unit(clips, seed=seed + 100)[torch.randint(clips, (clips,), generator=generator)]
    return text, audio, np.arange(captions), torch.randint(clips, (captions,), generator=generator).numpy()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("held", "queries", "many"), [(1 << 26, 1024, 128), (2000, 3, 2), (1, 1, 1), (1 << 26, 7, 4)])
def test_blocks_of_any_size_count_as_the_whole_matrix_does(monkeypatch, seed, held, queries, many):
    for name, value in (("BLOCK_BYTES", held), ("BLOCK_QUERIES", queries), ("MANY", many)):
        monkeypatch.setattr(places, name, value)
    text, audio, rows, owner = example(seed)
    for one, other, query, candidate in ((text, audio, rows, owner), (audio, text, owner, rows)):
        above, equal = find_places(distinct(one), distinct(other), query, candidate)
        expected = whole_matrix(one, other, query, candidate)
        assert (above == expected[0]).all() and (equal == expected[1]).all()
    assert equal.max() > 1
    assert (find_places(distinct(text), distinct(audio), rows, np.roll(owner, 1))[0] != expected[0]).any()


def test_distinct_rows_are_found_and_their_order_depends_on_nothing_else():
    rows = unit(50)[torch.arange(90) % 50]
    rows[3:5] = F.one_hot(torch.tensor(2), 16).float()
    rows[4, 5] = -0.0
    assert torch.equal(rows[3], rows[4]) and rows[4].signbit().any()
    found = distinct(rows)
    assert torch.equal(torch.from_numpy(found.vectors[found.number]), rows) and len(found.vectors) == 51
    assert (np.bincount(found.number) == found.counts).all() and (np.diff(found.counts > 1) >= 0).all()
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    moved = distinct(rows[order])
    assert (moved.vectors == found.vectors).all() and (moved.counts == found.counts).all()
    assert (moved.number == found.number[order]).all()


def test_equal_rows_are_equally_similar_wherever_they_stand():
    """Products of a whole matrix may round differently in its last rows and columns."""
    caption, clip = unit(1, 513, seed=7), unit(1, 513, seed=8)
    text, audio = unit(1003, 513, seed=1), unit(207, 513, seed=2)
    text[::17], audio[5::13] = caption, clip
    rows = np.flatnonzero((text == caption).all(1).numpy())
    columns = np.flatnonzero((audio == clip).all(1).numpy())
    query, candidate = (x.ravel() for x in np.meshgrid(rows, columns))
    above, equal = find_places(distinct(text), distinct(audio), query, candidate)
    assert (equal == len(columns)).all() and (above == above[0]).all()


def held_at_most(clips, captions):
    """Bytes at the highest point of counting, of NumPy's arrays."""
    text, audio = distinct(unit(captions, 8)), distinct(unit(clips, 8, seed=1))
    owner = np.arange(captions) % clips
    tracemalloc.start()
    find_places(text, audio, np.arange(captions), owner)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_that_of_a_block_and_not_of_the_matrix(monkeypatch):
    monkeypatch.setattr(places, "BLOCK_BYTES", 1 << 18)
    peaks = [held_at_most(500 * factor, 1000 * factor) for factor in (1, 2, 4)]
    matrices = [4 * 500 * 1000 * factor**2 for factor in (1, 2, 4)]
    assert matrices[2] > 30_000_000 and peaks[2] < 1_200_000  # a block of 0.26 MB, and what grows as N + M
    assert peaks[2] - (1 << 18) < 4.5 * (peaks[0] - (1 << 18))
    monkeypatch.setattr(places, "BLOCK_BYTES", 1 << 40)  # the control: everything in one block
    monkeypatch.setattr(places, "BLOCK_QUERIES", 1 << 40)
    assert held_at_most(2000, 4000) > matrices[2]


def test_a_clip_with_very_many_captions_is_no_table_of_all_clips_by_so_many():
    """One clip of 5000 captions among 3000 of one each: padded to 5000, comparisons would take 120 GB."""
    owner = np.concatenate([np.zeros(5000, np.int64), np.arange(1, 3001)])
    text, audio = unit(8000), unit(3001, seed=1)
    above, equal = find_places(distinct(audio), distinct(text), owner, np.arange(8000))
    expected = whole_matrix(audio, text, owner[::97], np.arange(8000)[::97])
    assert (above[::97] == expected[0]).all() and (equal[::97] == expected[1]).all()
