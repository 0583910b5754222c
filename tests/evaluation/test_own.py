"""A run's own test set: its corpora, its labels, the numbers in `metrics.json`."""

import json

import numpy as np
import pytest

import atr
from atr.errors import DataError, UsageError
from atr.evaluation.own import TOGETHER, config_of, evaluate_own, flat, question_of, sets_of_run, together
from atr.evaluation.record import POOLED
from atr.evaluation.run import Subject
from atr.evaluation.sets import encode_set, read_set
from atr.shards.write import write_shards
from tests.conftest import make_clips


@pytest.fixture
def halves(tmp_path):
    """Two corpora, whose ids are the same."""
    clips = make_clips(tmp_path / "sounds")
    write_shards(clips[:6], tmp_path / "low", codec="flac", progress=False)
    other = make_clips(tmp_path / "others")
    write_shards(other[4:10], tmp_path / "both", codec="flac", progress=False)
    return {"low": [str(tmp_path / "low")], "both": [str(tmp_path / "both")]}


def test_each_corpus_and_all_together_encode_each_clip_once(trained, halves, monkeypatch):
    cfg = config_of(trained)
    cfg.data.test, cfg.evaluation.windows = halves, "first"  # one window of a clip
    model = atr.load(trained)
    encoded, encode = [], model.clap.encode_audio
    monkeypatch.setattr(model.clap, "encode_audio", lambda x: encoded.append(len(x)) or encode(x))
    done = evaluate_own(Subject.of(model, trained), cfg)
    assert sum(encoded) == 12
    assert [(one.protocol.task, one.protocol.dataset, one.protocol.clips) for one in done.results] == [
        ("retrieval", "low", 6), ("retrieval", "both", 6), ("zero-shot", "both", 6),
        ("retrieval", TOGETHER, 12), ("zero-shot", TOGETHER, 12),
    ]  # fmt: skip
    numbers = flat(done.results)
    assert (numbers["clips"], numbers["low/clips"]) == (12, 6) and numbers["both/zero_shot/labels"] == 2
    assert numbers["both/zero_shot/recall/low_note"] == done.results[2].shown["per_class"]["low_note"]
    assert numbers["retrieval/t2a/R@1"] == done.results[3].value("t2a/R@1")
    assert set(done.saved) == {"low", "both"}  # what is together finds no sound under its ids
    assert done.results[4].shown["answers"][0]["id"] == "both/note04" and numbers["zero_shot/clips"] == 12


def test_the_joined_set_is_that_of_its_parts(trained, halves):
    model = atr.load(trained)
    parts = {name: encode_set(model, read_set(places, name)) for name, places in halves.items()}
    joined = together(parts)
    for row, name in enumerate(joined.clips.ids):
        corpus, _, own = name.partition("/")
        part = parts[corpus]
        number = part.clips.ids.index(own)
        assert (joined.audio[row] == part.audio[number]).all()
        assert joined.clips.captions[row] == part.clips.captions[number]
    assert joined.clips.ids == sorted(joined.clips.ids)


def test_only_some_labels(trained, shards):
    cfg = config_of(trained)
    cfg.data.test, cfg.data.only_labels = [str(shards)], ["low_note"]
    (clips,) = sets_of_run(cfg).values()
    assert len(clips) == 8 and {label for one in clips.labels for label in one} == {"low_note"}
    cfg.data.only_labels = ["rain"]
    with pytest.raises(DataError, match="no clip has the label 'rain'; labels in the data: high_note, low_note"):
        sets_of_run(cfg)


def test_candidates_and_clips_of_the_classification(shards):
    clips = read_set([shards])
    clips.labels[0][:] = ["low_note", "loud"]
    question = question_of(clips, ["low_note", "high_note", "dog"])
    assert question.labels == ["dog", "high_note", "low_note"] and len(question.clips) == 15
    assert (question.carried.sum(axis=1) == 1).all() and question.carried[:, 0].sum() == 0
    assert question_of(clips.of([1, 2]), []) is None  # one label is no choice
    with pytest.raises(UsageError, match=r"evaluation\.labels lacks 'low_note'"):
        question_of(clips, ["high_note", "dog"])


def test_the_run_has_the_same_numbers_as_the_command(tmp_path, trained):
    """`metrics.json`, `results.json` and a second evaluation of the checkpoint agree."""
    run = trained.parent.parent
    numbers = json.loads((run / "metrics.json").read_text())
    done = evaluate_own(Subject.of(atr.load(trained), trained), config_of(trained))
    assert flat(done.results) == pytest.approx(numbers, abs=1e-6)
    measured = done.results[0].rows[POOLED][0]
    assert measured.low <= measured.value <= measured.high and np.isfinite(measured.replicates).all()


def test_a_run_without_a_test_set_says_so(trained):
    cfg = config_of(trained)
    cfg.data.test = None
    with pytest.raises(UsageError, match=r"last\.ckpt has no test set of its own; name shard"):
        sets_of_run(cfg, "last.ckpt")
