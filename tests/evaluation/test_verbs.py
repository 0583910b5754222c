"""What `atr eval` does, on real shards with a small model: the same numbers by hand, and what is refused."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from typer.testing import CliRunner

import atr
from atr.cli_eval import evaluation
from atr.errors import DataError, UsageError
from atr.evaluation.record import MEAN, POOLED, read_results
from atr.evaluation.retrieval import retrieval
from atr.evaluation.run import digest, set_name, write_evaluated
from atr.evaluation.saved import read_saved
from atr.evaluation.verbs import classify, few_shot, probe, retrieve, retrieve_embeddings
from atr.shards.write import write_shards
from tests.conftest import make_clips


@pytest.fixture
def folds(tmp_path):
    """Two folds with both labels in each."""
    clips = make_clips(tmp_path / "sounds")
    write_shards(clips[::2], tmp_path / "notes" / "fold1", codec="flac", progress=False)
    write_shards(clips[1::2], tmp_path / "notes" / "fold2", codec="flac", progress=False)
    return [str(tmp_path / "notes" / "fold1"), str(tmp_path / "notes" / "fold2")]


def test_retrieval_of_places_equals_the_embeddings_by_hand(trained, shards, tmp_path):
    done = retrieve(trained, [str(shards)])
    model = atr.load(trained)
    clips = make_clips(tmp_path / "again")
    audio = model.encode_audio([clip.audio for clip in clips])
    text = model.encode_text([caption for clip in clips for caption in clip.captions])
    by_hand = retrieval(audio, text, torch.arange(16).repeat_interleave(2))
    (result,) = done.results
    for one in result.rows[POOLED]:
        assert one.value == pytest.approx(by_hand[one.metric], abs=1e-9), one.metric
        assert one.low <= one.value <= one.high and one.n == 16
    assert result.protocol.checkpoint_sha256 == model.fingerprint() and result.protocol.windows == "mean"
    assert result.protocol.versions["packages"]["torch"] and result.protocol.crop_seed is None


def test_what_was_written_gives_the_same_numbers_again(trained, shards, tmp_path):
    done = retrieve(trained, [str(shards)])
    write_evaluated(tmp_path / "out", done)
    (kept,) = (tmp_path / "out" / "embeddings").iterdir()
    again = retrieve_embeddings(kept)
    values = [[(one.metric, one.value, one.low, one.high) for one in d.results[0].rows[POOLED]] for d in (done, again)]
    assert values[0] == values[1]
    (read,) = read_results(tmp_path / "out" / "results.json")
    assert [(one.metric, one.value, one.low, one.high) for one in read.rows[POOLED]] == values[0]
    assert read_saved(kept).captions[:2] == ["a do note", "the do tone rings"]


def test_a_table_of_relevant_pairs(trained, shards, tmp_path):
    table = tmp_path / "relevant.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["caption", "clip"], ["a do note", "note00"], ["a do note", "note01"]])
    result = retrieve(trained, [str(shards)], table).results[0]
    assert result.protocol.settings["t2a_multi/queries"] == 1 and result.protocol.settings["relevance"] == table.name
    assert 0 < result.value("t2a_multi/mAP@16") <= 1
    with pytest.raises(UsageError, match="a table for one set; 2 are given"):
        retrieve(trained, [str(shards), str(shards)], table)


def test_sets_without_captions_have_no_retrieval(trained, tmp_path):
    folder = tmp_path / "classes"
    for clip in make_clips(tmp_path / "sounds", 4):
        place = folder / clip.labels[0] / f"{clip.id}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(Path(clip.audio).read_bytes())
    with pytest.raises(DataError, match="has no captions to search by; labels are for `atr eval zero-shot`"):
        retrieve(trained, [str(folder)])


def test_zero_shot_of_folds_with_several_sets_of_prompts(trained, folds):
    done = classify(trained, folds, prompts=["paper", "bare"])
    assert [one.protocol.dataset for one in done.results] == ["notes (paper prompts)", "notes (bare prompts)"]
    first = done.results[0]
    assert list(first.rows) == [POOLED, MEAN, "fold1", "fold2"] and first.protocol.templates == (
        "The sound of {label}",
    )
    model = atr.load(trained)
    text = model.encode_labels(["high_note", "low_note"])[1]
    saved = done.saved["notes (paper prompts)"]
    answers = (torch.from_numpy(saved.audio) @ text.T).argmax(dim=1).tolist()
    right = [["high_note", "low_note"][a] == one[0] for a, one in zip(answers, saved.labels, strict=True)]
    assert first.value("accuracy") == pytest.approx(np.mean(right))
    confusion = np.array(first.shown["confusion"])
    assert confusion.sum() == 16 and confusion.diagonal().sum() == sum(right)
    assert [one["answer"] == one["label"] for one in first.shown["answers"]] == right


def test_zero_shot_suites_say_what_is_missing_and_take_no_places(trained, tmp_path):
    done = classify(trained, suite="environment", root=tmp_path)
    assert not done.results and len(done.missing) == 4 and all("atr prepare" in line for line in done.missing)
    with pytest.raises(UsageError, match="--suite brings its own data and labels"):
        classify(trained, ["somewhere"], suite="environment")


def test_a_label_file_with_an_unknown_class_gives_no_number(trained, folds, tmp_path):
    (tmp_path / "labels.txt").write_text("low_note\nhigh_note\nwhale\n")
    with pytest.raises(DataError, match="no clip carries 'whale'"):
        classify(trained, folds, labels_file=tmp_path / "labels.txt")
    (tmp_path / "labels.txt").write_text("low_note\nwhale\n")
    with pytest.raises(DataError, match="has the label 'high_note', which is none of the 2 candidates"):
        classify(trained, folds, labels_file=tmp_path / "labels.txt")


def test_probe_over_folds_and_of_two_sets(trained, folds):
    over = probe(trained, folds).results[0]
    assert list(over.rows) == [POOLED, MEAN, "fold1", "fold2"] and over.protocol.task == "probe"
    one = probe(trained, train=folds[:1], test=folds[1:]).results[0]
    assert one.value("accuracy") == over.value("accuracy", "fold2")
    with pytest.raises(UsageError, match="two or more folders as folds, or --train and --test"):
        probe(trained, folds[:1])
    with pytest.raises(UsageError, match="two or more folders as folds, or --train and --test"):
        probe(trained, folds, train=folds[:1])


def test_few_shots(trained, folds):
    result = few_shot(trained, folds[:1], folds[1:], shots=[1, 2]).results[0]
    assert result.protocol.task == "few-shot" and 0 <= result.rows[POOLED][0].value <= 1


def test_names_of_sets():
    assert set_name(["/some/data/esc10/fold5/"]) == "esc10/fold5" and set_name(["fold5"]) == "fold5"
    assert set_name(["data/esc10/fold1", "data/esc10/fold2"]) == "esc10"
    assert set_name(["a/x", "b/y"]) == "a/x+b/y" and set_name(["../x.csv"]) == "x.csv"


def test_the_hash_of_embeddings_knows_each_number():
    one = torch.ones(2, 3)
    other = one.clone()
    other[1, 2] = 1.0000001
    assert digest(one, ["a"]) == digest(one.clone(), ["a"])
    assert len({digest(one, ["a"]), digest(other, ["a"]), digest(one, ["b"])}) == 3


@pytest.mark.parametrize("place", ["pipe:touch FILE", "https://host/test/000.tar?key=SECRET"])
def test_what_a_checkpoint_names_is_neither_fetched_nor_run(trained, tmp_path, place):
    content = torch.load(trained, weights_only=True)
    config = OmegaConf.create(content["atr"]["config"])
    config.data.test = [place.replace("FILE", str(tmp_path / "made"))]
    content["atr"]["config"] = OmegaConf.to_yaml(config)
    torch.save(content, tmp_path / "other.ckpt")
    for verb in (retrieve, classify):
        with pytest.raises(UsageError, match=r"other\.ckpt is remote .* name the place on the command line") as said:
            verb(tmp_path / "other.ckpt")
        assert "SECRET" not in str(said.value)
    assert not (tmp_path / "made").exists()


def test_sets_of_one_name_are_told_apart_and_what_lacks_labels_is_said(trained, tmp_path, folds):
    shutil.copytree(folds[0], tmp_path / "other" / "notes" / "fold1")
    done = retrieve(trained, [folds[0], str(tmp_path / "other" / "notes" / "fold1")])
    assert len(done.saved) == 2 and len({one.protocol.dataset for one in done.results}) == 2


def test_results_that_are_there_are_not_replaced(trained, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    said = CliRunner().invoke(evaluation, ["retrieval", str(trained), "--out", str(tmp_path)])
    assert isinstance(said.exception, UsageError) and "holds results already" in str(said.exception)
