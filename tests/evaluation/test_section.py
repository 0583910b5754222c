"""What a report shows of a set, against results and embeddings of known content."""

import numpy as np
import pytest

from atr.evaluation.runs import read_runs
from atr.evaluation.section import label_texts, make_section
from atr.evaluation.sets import read_set
from atr.evaluation.side_by_side import tables
from tests.evaluation.made import make_run, saved


@pytest.fixture
def runs(tmp_path, shards):
    """The second run is wrong about the clips 0 to 4, the first about 0 and 1."""
    one, two = make_run(tmp_path / "one", shards, wrong=2), make_run(tmp_path / "two", shards, wrong=5, seed=1)
    return read_runs([one, two])


def test_the_hardest_clips_of_both_runs_are_there_with_both_answers(runs, shards):
    section = make_section("notes", tables(runs), runs, 12, progress=False)
    zero_shot, retrieval = section.tasks
    ids = read_set([shards]).ids
    cards = zero_shot.hardest
    assert {card.name for card in cards} == set(ids[:5]) and cards[0].name == ids[1]  # the first run's hardest
    assert [card.name for card in cards][:3] == [ids[1], ids[4], ids[0]]
    last = next(card for card in cards if card.name == ids[4])
    assert last.answers[0].right and last.answers[1].margin == pytest.approx(0.04) and last.title == "sol"
    assert zero_shot.wrong == [(2, 16), (5, 16)] and retrieval.wrong == [None, None] and retrieval.hardest == []
    assert all(card.sound.startswith("data:audio/mpeg;base64,") for card in cards + section.heard)
    assert section.lost == []


def test_pictures_and_remarks_name_their_run(runs):
    section = make_section("notes", tables(runs), runs, 12, progress=False)
    zero_shot = section.tasks[0]
    assert [run.letter for run, _ in zero_shot.confusions] == ["A", "B"] == [run.letter for run, _, _ in section.maps]
    assert [run.letter for run, _ in section.similarities] == ["A", "B"]
    assert zero_shot.bars.rows == [("high_note", [1.0, 1.0]), ("low_note", [0.75, 0.375])]
    assert zero_shot.measure == "recall" and zero_shot.mixed_up == []
    assert section.remarks == ["A, zero-shot: one clip is short", "B, zero-shot: one clip is short"]
    assert section.coloured == (2, 2) and "principal components" in section.maps[0][2] and "stars" in section.maps[0][2]


def test_clips_to_listen_to_have_captions_of_each_run(runs):
    section = make_section("notes", tables(runs), runs, 5, progress=False)
    assert len(section.heard) == 5 and len(section.tasks[0].hardest) == 5
    for card in section.heard:
        assert [len(one.nearest) for one in card.nears] == [4, 4]


def test_sound_that_is_gone_is_said(runs, shards):
    for path in shards.iterdir():
        path.unlink()
    section = make_section("notes", tables(runs), runs, 12, progress=False)
    assert all(card.sound == "" for card in section.heard + section.tasks[0].hardest)
    assert len(section.lost) == 1 and str(shards) in section.lost[0]
    assert len(section.maps) == 2


def test_a_run_without_embeddings_has_no_map(tmp_path, shards):
    one, two = make_run(tmp_path / "one", shards), make_run(tmp_path / "two", shards)
    (two / "embeddings" / "notes.npz").unlink()
    runs = read_runs([one, two])
    section = make_section("notes", tables(runs), runs, 12, progress=False)
    assert [run.letter for run, _, _ in section.maps] == ["A"] and section.heard[0].nears[1] is None
    (one / "embeddings" / "notes.npz").unlink()
    runs = read_runs([one, two])
    section = make_section("notes", tables(runs), runs, 12, progress=False)
    assert section.maps == [] and section.heard == [] and section.coloured == (0, 0)
    assert section.lost == ["the run kept no embeddings, which say where its sound lies"]
    assert len(section.tasks[0].hardest) == 3 and section.tasks[0].hardest[0].title == ""


def test_a_label_stands_where_its_captions_are_on_average():
    one = saved()
    labels = [label for (label,) in one.labels]
    names, means = label_texts(one, labels, ["high_note", "low_note", "none"])
    assert names == ["high_note", "low_note"]
    distinct = [[*range(12, 24, 2), 13], [*range(0, 12, 2), 1]]  # the caption that stands on all clips counts once
    np.testing.assert_allclose(means, [one.text[columns].mean(axis=0) for columns in distinct], atol=1e-6)
    assert np.abs(means[0] - one.text[12:].mean(axis=0)).max() > 0.01
    assert label_texts(one, [""] * 12, ["high_note"])[1].shape == (0, 8)
