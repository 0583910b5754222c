"""The map of embeddings: groups stay groups, the same input gives the same map, many clips are drawn from."""

import numpy as np
import pytest

from atr.evaluation.plane import FEW_CLIPS, MOST_CLIPS, choose_rows, project
from tests.evaluation.made import unit


def groups(clips, spread=0.15, dim=16):
    """Unit vectors around four directions, and the group of each."""
    rng = np.random.default_rng(0)
    group = np.arange(clips) % 4
    return unit(np.eye(dim)[group] + spread * rng.normal(size=(clips, dim))), group


def purity(points, group):
    """The share of clips whose nearest neighbour in the plane is of their group."""
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return (group[distance.argmin(axis=1)] == group).mean()


@pytest.mark.parametrize("clips, method", [(40, "principal components"), (120, "t-SNE, perplexity 30, seed 0")])
def test_groups_stay_groups(clips, method):
    audio, group = groups(clips)
    plane = project(audio, audio[:0])
    assert plane.clips.shape == (clips, 2) and plane.texts.shape == (0, 2) and plane.method.startswith(method)
    assert purity(plane.clips, group) > 0.7 > purity(plane.clips, np.random.default_rng(0).permutation(group))
    assert plane.method.endswith(f"all {clips} clips")


@pytest.mark.parametrize("clips", [40, 60])
def test_the_same_clips_give_the_same_map(clips):
    audio, _ = groups(clips)
    assert np.array_equal(project(audio, audio[:3]).clips, project(audio, audio[:3]).clips)


def test_texts_that_lie_apart_as_a_whole_come_to_their_clips():
    audio, group = groups(60)
    gap = np.zeros(16)
    gap[-1] = 1.0
    texts = unit(np.eye(16)[:4] + gap)
    assert (texts @ audio.T).max() < 0.85 and np.linalg.norm(texts.mean(axis=0) - audio.mean(axis=0)) > 0.5
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        plane = project(audio, texts[order])
        distance = np.linalg.norm(plane.texts[:, None] - plane.clips[None], axis=2)
        assert group[distance.argmin(axis=1)].tolist() == order


def test_of_many_clips_some_are_drawn_by_a_fixed_chance():
    rows = choose_rows(20_000)
    assert len(rows) == MOST_CLIPS == len(set(rows)) and (np.diff(rows) > 0).all() and rows.max() < 20_000
    assert np.array_equal(rows, choose_rows(20_000)) and abs(rows.mean() - 10_000) < 400
    assert np.array_equal(choose_rows(MOST_CLIPS), np.arange(MOST_CLIPS))


def test_the_number_of_clips_drawn_is_stated(monkeypatch):
    monkeypatch.setattr("atr.evaluation.plane.MOST_CLIPS", 30)
    audio, _ = groups(1_200)
    plane = project(audio, audio[:0])
    assert plane.clips.shape == (30, 2)
    assert plane.method == "principal components of the clips; 30 clips, drawn by chance, of 1,200 clips"


@pytest.mark.parametrize("clips", [1, 2, FEW_CLIPS])
def test_few_and_equal_clips_have_a_place(clips):
    same = unit(np.ones((clips, 8)))
    for texts in (same[:1], groups(4, dim=8)[0]):
        plane = project(same, texts)
        assert plane.clips.shape == (clips, 2) and np.isfinite(plane.clips).all() and np.isfinite(plane.texts).all()


@pytest.mark.parametrize("spread", [1e-8, 1e-5, 1e-2])
def test_a_model_that_has_nearly_collapsed_is_drawn(spread):
    plane = project(unit(np.ones((60, 8)) + spread * np.random.default_rng(0).normal(size=(60, 8))), np.zeros((0, 8)))
    assert np.isfinite(plane.clips).all() and len(np.unique(plane.clips.round(9), axis=0)) > (
        50 if spread > 1e-6 else 0
    )


def test_clips_of_two_embeddings_only_are_drawn():
    plane = project(np.repeat(unit(np.eye(8)[:2]), 30, axis=0), np.zeros((0, 8), np.float32))
    assert plane.method.startswith("t-SNE") and np.isfinite(plane.clips).all()
    assert (
        plane.clips[:30].std() + plane.clips[30:].std()
        < np.abs(plane.clips[:30].mean(0) - plane.clips[30:].mean(0)).max()
    )
