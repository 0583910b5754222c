"""The report: one file that needs nothing else, with what it should show."""

import re

import pytest
import torch

import atr
from atr.errors import DataError, UsageError
from atr.evaluation.encode import encode_texts
from atr.evaluation.report import hear, write_report
from atr.evaluation.run import evaluate_checkpoint
from atr.evaluation.scores import score
from atr.experiment import train


@pytest.fixture
def checkpoint(tiny):
    train(tiny("trainer.max_epochs=1", "trainer.log_every_n_steps=1"))
    return tiny.run_dir / "checkpoints" / "last.ckpt"


def test_the_page_is_self_contained_and_shows_everything(checkpoint, tiny):
    page = (tiny.run_dir / "report" / "index.html").read_text()
    for heading in (
        "Retrieval",
        "Zero-shot classification",
        "Similarity of clips",
        "Training",
        "Listen",
        "Configuration",
    ):
        assert f"<h2>{heading}" in page
    assert page.count("data:image/png;base64,") >= 4 and page.count("<audio controls") == 16
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', page) == []


def test_titles_of_clips_are_escaped(checkpoint, tmp_path):
    evaluation = evaluate_checkpoint(checkpoint)
    evaluation.encoded.samples[0].title = "<script>alert(1)</script>"
    page = write_report(tmp_path, evaluation, "x: <b>", ["a & b"]).read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "a &amp; b" in page


def test_the_nearest_captions_are_the_nearest(checkpoint):
    evaluation = evaluate_checkpoint(checkpoint)
    heard = hear(evaluation)[0]
    cosine = evaluation.encoded.text @ evaluation.encoded.audio[0]
    assert heard.nearest[0][0] == pytest.approx(cosine.max().item(), abs=1e-6)
    own = cosine[evaluation.encoded.clip_of_text == 0].max()
    assert heard.own_rank == int((cosine > own).sum()) + 1


def test_equal_captions_are_encoded_once_and_equal(checkpoint):
    clap = atr.load(checkpoint).clap
    text = encode_texts(clap, ["a b", "c", "a b"], next(clap.parameters()).device)
    assert torch.equal(text[0], text[2]) and not torch.equal(text[0], text[1])


def test_no_number_is_given_for_broken_embeddings(checkpoint):
    evaluation = evaluate_checkpoint(checkpoint)
    evaluation.encoded.audio[0] = torch.nan
    clap = atr.load(checkpoint).clap
    with pytest.raises(DataError, match="NaN or infinite"):
        score(clap, evaluation.encoded, ["{label}"], next(clap.parameters()).device)


def test_candidates_must_hold_the_labels_of_the_set(checkpoint):
    clap = atr.load(checkpoint).clap
    encoded = evaluate_checkpoint(checkpoint).encoded
    with pytest.raises(UsageError, match=r"evaluation\.labels lacks 'low_note'"):
        score(clap, encoded, ["{label}"], next(clap.parameters()).device, labels=["high_note", "dog"])
    more = score(clap, encoded, ["{label}"], next(clap.parameters()).device, labels=["high_note", "dog", "low_note"])
    assert more.zero_shot.chance == pytest.approx(1 / 3)
