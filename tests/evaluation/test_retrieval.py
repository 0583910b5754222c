"""Retrieval on hand-made similarities, against a slow reference, against torchmetrics, and over two processes."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_hit_rate, retrieval_recall

from atr.errors import DataError
from atr.evaluation import places
from atr.evaluation.bootstrap import replicate
from atr.evaluation.retrieval import measure_retrieval, retrieval
from tests.evaluation.ranks_child import ragged, score_shared, unit

CUTOFFS = (1, 5, 10, 50)


def slow_query(scores, relevant, cutoffs=CUTOFFS):
    """One query, its candidates sorted; only for scores without ties. `relevant`: in the order they are given."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    place = {candidate: number for number, candidate in enumerate(order, 1)}
    given = [place[one] for one in relevant]
    found = {f"R@{k}": float(min(given) <= k) for k in cutoffs}
    for k in (10, 16):
        found[f"mAP@{k}"] = sum(i / p for i, p in enumerate(sorted(given), 1) if p <= k) / len(given)
    found["mAP@10_laion"] = sum(i / p for i, p in enumerate([p for p in given if p <= 10], 1)) / len(given)
    return found | {"place": min(given)}


def slow_mean(rows):
    result = {name: np.mean([row[name] for row in rows]) for name in rows[0] if name != "place"}
    places = [row["place"] for row in rows]
    return result | {"median_rank": math.floor(np.median(places)), "mean_rank": np.mean(places)}


@pytest.mark.parametrize("seed", range(3))
def test_ragged_captions_against_the_slow_reference(seed):
    audio, text, owner = ragged(seed=seed)
    text = F.normalize(text + 0.01 * unit(len(text), seed=9), dim=1)  # no ties
    table = {int(row): sorted({int(owner[row]), (row * 7) % 60, (row * 11) % 60}) for row in range(0, 200, 3)}
    pairs = [(row, clip) for row, clips in table.items() for clip in clips]
    scores = (text.double() @ audio.double().T).numpy()
    rows = {
        "t2a": [slow_query(scores[row], [int(owner[row])]) for row in range(200)],
        "a2t": [
            slow_query(scores[:, clip], own) for clip in range(60) if (own := (owner == clip).nonzero()[:, 0].tolist())
        ],
        "t2a_multi": [slow_query(scores[row], clips) for row, clips in table.items()],
    }
    result = retrieval(audio, text, owner, pairs)
    for direction, expected in rows.items():
        for name, value in slow_mean(expected).items():
            if f"{direction}/{name}" in result:
                assert result.pop(f"{direction}/{name}") == pytest.approx(value, abs=1e-12), (direction, name)
        assert result.pop(f"{direction}/queries") == len(expected)
        assert result.pop(f"{direction}/candidates") == (200 if direction == "a2t" else 60)
    assert result == {}
    assert len(rows["a2t"]) < 60  # some clips have no caption


def test_the_example_of_the_docstring():
    audio = torch.eye(2)
    text = F.normalize(torch.tensor([[1.0, 0.0], [0.2, 0.8], [0.1, 0.9]]), dim=1)
    result = retrieval(audio, text, torch.tensor([0, 0, 1]))
    assert result["t2a/R@1"] == pytest.approx(2 / 3)
    assert result["a2t/R@1"] == 1.0
    text = F.normalize(torch.tensor([[1.0, 0.0], [0.05, 0.95], [0.1, 0.9]]), dim=1)
    result = retrieval(audio, text, torch.tensor([0, 0, 1]))  # clip 0: captions 0, 2, 1; clip 1: captions 1, 2, 0
    assert result["a2t/mAP@10"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)


def test_own_captions_at_the_fifth_and_the_first_place():
    """Clip 0's other three stand beyond the tenth: 1.4 / 5, and 2.2 / 5 in LAION's way. Clip 1 has its 20 first."""
    to_first = torch.tensor([0.5, 0.9, -0.9, -0.8, -0.7] + [0.8, 0.7, 0.6] + [0.1] * 17)
    to_second = torch.tensor([0.0] * 5).tolist() + np.linspace(0.5, 0.3, 20).tolist()
    text = torch.stack([to_first, torch.tensor(to_second), torch.zeros(25)], dim=1)
    text[:, 2] = (1 - text.square().sum(dim=1)).sqrt()
    result = retrieval(torch.eye(3)[:2], text, torch.tensor([0] * 5 + [1] * 20))
    assert result["a2t/mAP@10"] == pytest.approx((1.4 / 5 + 10 / 20) / 2, abs=1e-12)
    assert result["a2t/mAP@10_laion"] == pytest.approx((2.2 / 5 + 10 / 20) / 2, abs=1e-12)
    assert result["a2t/R@1"] == 1.0 and result["a2t/mean_rank"] == 1.0


def test_a_constant_model_is_at_chance():
    clip_of_text = torch.arange(20).repeat_interleave(5)
    audio, text = unit(1).repeat(20, 1), unit(1, seed=1).repeat(100, 1)
    result = retrieval(audio, text, clip_of_text, [(row, clip) for row in range(100) for clip in (0, 1, row % 18 + 2)])
    for k in (1, 5, 10):
        assert result[f"t2a/R@{k}"] == pytest.approx(k / 20)
        missed = math.comb(95, k) / math.comb(100, k)
        assert result[f"a2t/R@{k}"] == pytest.approx(1 - missed)
        assert result[f"t2a_multi/R@{k}"] == pytest.approx(1 - math.comb(17, k) / math.comb(20, k))
    assert result["t2a/median_rank"] == 10 and result["t2a/mean_rank"] == pytest.approx(10.5)
    harmonic = sum(1 / place for place in range(1, 11))
    assert result["t2a/mAP@10"] == pytest.approx(harmonic / 20)
    expected = sum(5 / 100 * (1 + offset * 4 / 99) / (offset + 1) for offset in range(10)) / 5
    assert result["a2t/mAP@10"] == pytest.approx(expected)


def test_a_constant_tower_is_at_chance_and_another_model_is_not():
    audio, text, owner = ragged()
    spread = retrieval(audio, text, owner)
    assert spread["t2a/R@1"] > 0.1 and spread["a2t/R@1"] > 0.1
    only_audio = retrieval(audio[:1].repeat(60, 1), text, owner)
    assert only_audio["t2a/R@1"] == pytest.approx(1 / 60) and only_audio["t2a/R@50"] == pytest.approx(50 / 60)
    only_text = retrieval(audio, text[:1].repeat(200, 1), owner)
    assert only_text["t2a/R@1"] == pytest.approx(np.mean([spread_out(audio, text[0], clip) for clip in owner.tolist()]))
    assert only_text["a2t/mean_rank"] == pytest.approx(np.mean([201 / (n + 1) for n in owner.bincount() if n]))


def spread_out(audio, caption, clip):
    """R@1 of the one caption that all share: is this clip the nearest?"""
    return float((audio @ caption).argmax() == clip)


def test_permuting_clips_and_captions_changes_nothing_at_all(monkeypatch):
    """Bit for bit, in several blocks, also where clips and captions come several times."""
    monkeypatch.setattr(places, "BLOCK_QUERIES", 7)
    audio, text, owner = ragged(seed=4)
    audio[10], audio[20] = audio[0], audio[1]
    pairs = [(row, (row * 7) % 60) for row in range(50)] + [(row, int(owner[row])) for row in range(50)]
    result = retrieval(audio, text, owner, pairs)
    ids = [f"clip{number:02d}" for number in range(60)]
    intervals = measure_retrieval(audio, text, owner, ids, pairs)
    for seed in range(3):
        clips = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        moved = [(row, int(clips.argsort()[clip])) for row, clip in pairs]
        assert retrieval(audio[clips], text, clips.argsort()[owner], moved[::-1]) == result
        again = measure_retrieval(audio[clips], text, clips.argsort()[owner], [ids[clip] for clip in clips], moved)
        for one, other in zip(intervals, again, strict=True):
            assert (one.metric, one.value, one.low, one.high) == (other.metric, other.value, other.low, other.high)
            assert (one.replicates == other.replicates).all()
        captions = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
        shuffled = retrieval(audio, text[captions], owner[captions])
        differ = {name for name in shuffled if shuffled[name] != result[name]}
        assert differ <= {"a2t/mAP@10_laion"}  # LAION's is defined by the order of a clip's captions


def test_torchmetrics_agrees():
    """Its average precision divides by the relevant ones that it found; all else is the same."""
    audio, text, owner = ragged(seed=5)
    text = F.normalize(text + 0.01 * unit(len(text), seed=9), dim=1)
    result, scores = retrieval(audio, text, owner), text @ audio.T
    for direction, matrix, own in (
        ("t2a", scores, owner[:, None] == torch.arange(60)),
        ("a2t", scores.T[owner.unique()], owner == owner.unique()[:, None]),
    ):
        for k in CUTOFFS:
            hits = [retrieval_hit_rate(s, t, top_k=k) for s, t in zip(matrix, own, strict=True)]
            assert result[f"{direction}/R@{k}"] == pytest.approx(torch.stack(hits).mean().item(), abs=1e-6)
        total = 0.0
        for s, t in zip(matrix, own, strict=True):
            share = retrieval_recall(s, t, top_k=10).item()
            total += retrieval_average_precision(s, t, top_k=10).item() * share if share else 0.0
        assert result[f"{direction}/mAP@10"] == pytest.approx(total / len(matrix), abs=1e-6)


def test_a_perfect_model_is_perfect_and_a_reversed_one_is_not():
    audio = torch.eye(12)
    text, owner = audio.repeat_interleave(3, dim=0), torch.arange(12).repeat_interleave(3)
    result = retrieval(audio, text, owner)
    for direction in ("t2a", "a2t"):
        assert all(result[f"{direction}/{m}"] == pytest.approx(1.0) for m in ("R@1", "mAP@10", "median_rank"))
    assert retrieval(audio, text, owner.flip(0))["t2a/R@1"] == 0.0
    assert (result["t2a/queries"], result["t2a/candidates"], result["a2t/candidates"]) == (36, 12, 36)


def test_with_one_caption_for_each_clip_both_definitions_of_map_are_one():
    result = retrieval(unit(30), F.normalize(unit(30) + unit(30, seed=1), dim=1), torch.arange(30))
    assert result["a2t/mAP@10"] == pytest.approx(result["a2t/mAP@10_laion"], abs=1e-12) and result["a2t/mAP@10"] < 0.95


def test_a_table_says_all_about_its_captions():
    """Caption 0 fits clips 1 and 2 and, by the table, not its own; the captions it leaves out are no queries."""
    audio = torch.eye(4)
    text = F.normalize(torch.tensor([[0.9, 0.8, 0.7, 0.0], [0.0, 1.0, 0.1, 0.0], [0.1, 0.0, 1.0, 0.0]]), dim=1)
    owner = torch.tensor([0, 1, 2])
    result = retrieval(audio, text, owner, [(0, 1), (0, 2), (2, 2), (2, 2)])
    assert result["t2a/R@1"] == 1.0 and result["t2a_multi/R@1"] == 0.5 and result["t2a_multi/R@5"] == 1.0
    assert result["t2a_multi/mAP@16"] == result["t2a_multi/mAP@10"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)
    assert (result["t2a_multi/queries"], result["t2a_multi/candidates"]) == (2, 4)
    assert not any(name.startswith("t2a_multi") for name in retrieval(audio, text, owner))


def test_intervals_surround_the_numbers_and_are_those_of_resampled_clips():
    audio, text, owner = ragged(seed=6)
    pairs = [(row, int(owner[row])) for row in range(0, 200, 5)]
    ids = [f"clip{number:02d}" for number in range(60)]
    found = measure_retrieval(audio, text, owner, ids, pairs)
    numbers = retrieval(audio, text, owner, pairs)
    assert {one.metric: one.value for one in found} == {
        name: value for name, value in numbers.items() if name.split("/")[1] not in ("queries", "candidates")
    }
    for one in found:
        assert one.low <= one.value <= one.high, one.metric
        assert one.low < one.high or one.metric.endswith(("median_rank", "R@50")), one.metric
        assert one.n == len(owner[::5].unique() if "multi" in one.metric else owner.unique())
    by_name = {one.metric: one.replicates for one in found}
    clips = owner.unique().tolist()
    (weights,) = replicate(len(clips), lambda weights: weights)
    nearest = (text @ audio.T).argmax(dim=1) == owner  # no tie at the top: the repeated captions are equally right
    for draw in range(0, 1000, 97):
        drawn = np.concatenate(
            [np.repeat([clip], int(times)) for clip, times in zip(clips, weights[draw], strict=True)]
        )
        hits = torch.cat([nearest[owner == clip] for clip in drawn])
        assert by_name["t2a/R@1"][draw] == pytest.approx(hits.double().mean().item(), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"audio": (3, torch.nan)}, r"clip 3 is NaN or infinite \(1 of 60 are\).*no numbers"),
        ({"text": (7, torch.inf)}, "caption 7 is NaN or infinite"),
        ({"owner": (0, 60)}, "clip_of_text names clip 60; allowed: 0 to 59"),
        ({"owner": (0, -1)}, "clip_of_text names clip -1"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, words):
    arrays = dict(zip(("audio", "text", "owner"), ragged(), strict=True))
    for name, (row, value) in change.items():
        arrays[name][row] = value
    with pytest.raises(DataError, match=words):
        retrieval(*arrays.values())
    with pytest.raises(DataError, match=words):
        measure_retrieval(*arrays.values(), [str(row) for row in range(60)])


def test_empty_sets_wrong_shapes_and_tables_are_refused():
    audio, text, owner = ragged()
    none = torch.zeros(0, dtype=torch.int64)
    for arguments, words in (
        ((audio[:0], text, owner), r"audio has shape \(0, 16\)"),
        ((audio, text[:0], none), r"text has shape \(0, 16\).*one at least"),
        ((audio, text[:, :5], owner), "audio is 16 wide, text 5"),
        ((audio, text, owner[:5]), r"clip_of_text has shape \(5,\); allowed: \(200,\)"),
        ((audio, text, owner, [(0, 60)]), "names clip 60; allowed: 0 to 59"),
        ((audio, text, owner, [(200, 1)]), "names caption 200; allowed: 0 to 199"),
        ((audio, text, owner, []), "table of relevant pairs is empty"),
    ):
        with pytest.raises(DataError, match=words):
            retrieval(*arguments)
    ids = [str(row) for row in range(60)]
    with pytest.raises(DataError, match="two clips have the id '5'"):
        measure_retrieval(audio, text, owner, [*ids[:59], "5"])
    with pytest.raises(DataError, match="59 ids for 60 clips"):
        measure_retrieval(audio, text, owner, ids[:59])


def test_two_ranks_share_the_queries_and_give_the_numbers_of_one(tmp_path, monkeypatch):
    torch.multiprocessing.spawn(score_shared, args=(str(tmp_path),), nprocs=2)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    monkeypatch.setattr(places, "BLOCK_QUERIES", 7)
    expected = retrieval(*ragged())
    for found in ranks:
        assert found["alone"] == found["shared"] == expected
        assert 0.3 < found["rows"] / found["alone_rows"] < 0.7
    assert sum(found["rows"] for found in ranks) == ranks[0]["alone_rows"]
