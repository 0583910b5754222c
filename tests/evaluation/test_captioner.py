"""A captioner on a set, on real shards: the numbers by hand, what a run shows at its end, the verb, the page."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import atr
from atr.captions import caption_sources
from atr.cli import app
from atr.errors import DataError, UsageError
from atr.evaluation import ngrams
from atr.evaluation.captioner import Beside, Wordless, caption_set, caption_tables, training_words, write_captions
from atr.evaluation.captioning import clap_score, score_captions
from atr.evaluation.record import POOLED, read_results
from atr.evaluation.report import write_report
from atr.evaluation.run import Subject, write_evaluated
from atr.evaluation.sets import read_set
from atr.evaluation.verbs import caption
from atr.experiment import train
from atr.inference import AudioTextModel
from atr.models.decode import Decoding
from atr.shards.write import write_shards
from tests.captioners import spread, tiny_captioner
from tests.captions import compose, few_clips
from tests.conftest import make_clips, tone

GREEDY = Decoding(method="greedy")
KEYWORDS = {"low_note": {"low", "dog", "rain"}, "high_note": {"high", "sea", "hum"}}


@pytest.fixture(autouse=True)
def _one_thread(_same_threads):
    torch.set_num_threads(1)  # tensors are tiny


@pytest.fixture(scope="module")
def subject(trained, tmp_path_factory):
    """The trained tiny model with a random captioner, which says something else of different tones."""
    clap = atr.load(trained).clap
    captioner = tiny_captioner(tmp_path_factory.mktemp("words"), clap)
    heard = torch.from_numpy(np.stack([tone(200 * 1.18**number) for number in range(16)]))
    return Subject.of(AudioTextModel(clap, captioner=spread(captioner, heard)), "here.ckpt")


def test_numbers_are_those_of_the_captions_by_hand(subject, shards, tmp_path):
    clips = read_set([shards], "notes")
    done = caption_set(subject, clips, GREEDY, Beside(KEYWORDS, frozenset()))
    (result,) = done.results
    sounds = [str(tmp_path / "sounds" / f"{name}.wav") for name in clips.ids]
    written = [one.captions[0].text for one in caption_sources(subject.model, clips.items, GREEDY)]
    assert [one["caption"] for one in result.shown["captions"]] == written and len(set(written)) > 3
    assert [one["references"] for one in result.shown["captions"]] == clips.captions
    text = subject.model.encode_text(written).cpu().numpy()
    clap = clap_score(subject.model.encode_audio(sounds).cpu().numpy(), text)
    given, many = (dict(zip(clips.ids, texts, strict=True)) for texts in (written, clips.captions))
    for one in score_captions(given, many, clap=clap):
        if one.value is not None:
            assert result.value(one.name) == pytest.approx(one.value, abs=1e-5 if one.name == "clap_score" else 1e-12)
    assert result.value("copies") == 0 and result.value("distinct") == pytest.approx(len(set(written)) / 16)
    assert {"names_label", "names_label_shuffled", "cider_d_shuffled"} < {one.metric for one in result.rows[POOLED]}
    about = result.protocol
    assert about.settings["decoding"]["method"] == "greedy" and about.settings["clap"] == subject.sha256
    assert about.checkpoint_sha256 != subject.sha256 and about.manifest_sha256 == clips.manifest_sha256
    assert done.saved["notes"].audio.shape == (16, 32) and len(done.saved["notes"].captions) == 0


def test_another_language_model_has_another_hash(subject, shards, tmp_path):
    clips = read_set([shards], "notes")
    one = caption_set(subject, clips, GREEDY).results[0].protocol
    other = Subject.of(AudioTextModel(subject.model.clap, captioner=tiny_captioner(tmp_path, subject.model.clap)), "x")
    two = caption_set(other, clips, GREEDY).results[0].protocol
    assert one.checkpoint_sha256 != two.checkpoint_sha256 and one.settings["clap"] == two.settings["clap"]


def test_clips_without_references_are_named(subject, shards):
    clips = read_set([shards], "notes")
    clips.captions[3] = []
    with pytest.raises(DataError, match=r"1 of 16 clips of notes have no captions to compare with \(note03\)"):
        caption_set(subject, clips, GREEDY)


def test_a_contrastive_model_writes_none(trained, shards):
    with pytest.raises(UsageError, match="which compares sounds with words but writes none"):
        caption(trained, [str(shards)])


def test_captions_of_signs_only_are_no_captions(trained, shards, tmp_path):
    clap = atr.load(trained).clap
    signs = AudioTextModel(clap, captioner=tiny_captioner(tmp_path, clap, words=[".", "!", "?", "-"]))
    with pytest.raises(Wordless, match=r"16 of 16 captions have no word \(note00 and 15 more: .*; train longer"):
        write_captions(signs, read_set([shards]), GREEDY)


def test_copies_of_the_training_captions(subject, shards, trained, tmp_path):
    cfg = compose(trained, tmp_path / "run", shards)
    words = training_words(cfg)
    assert ("a", "do", "note") in words
    assert words == {tuple(ngrams.tokenise(text)) for own in read_set([shards]).captions for text in own}
    cfg.data.only_labels = ["low_note"]  # of the test set
    assert training_words(cfg) == words
    cfg.data.exclude_labels = ["low_note"]
    high = {tuple(ngrams.tokenise(text)) for own in read_set([shards]).captions[8:] for text in own}
    assert training_words(cfg) == high != words
    clips = read_set([shards], "notes")
    own = write_captions(subject.model, clips, GREEDY)
    known = frozenset({tuple(own["note00"].split())})
    row = caption_set(subject, clips, GREEDY, Beside(training=known)).results[0].value("copies")
    assert row == pytest.approx(sum(text == own["note00"] for text in own.values()) / 16) and row > 0
    cfg.data.train = [str(tmp_path / "nowhere")]
    with pytest.raises(DataError, match="nowhere"):
        training_words(cfg)


def write_table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "caption"], *rows])
    return path


@pytest.fixture
def tables(tmp_path):
    """Predictions in another order than the references."""
    things = ["dog", "bell", "sea", "car"]
    one = write_table(tmp_path / "one.csv", [[f"c{i}", f"a {things[i]} far <b>away</b>"] for i in (2, 0, 3, 1)])
    two = write_table(tmp_path / "two.csv", [[f"c{i}", "a dog far away"] for i in range(4)])
    many = [
        [f"c{i}", f"a {thing} {how}"] for i, thing in enumerate(things) for how in ("& its <i>echo</i>", "far away")
    ]
    return one, two, write_table(tmp_path / "references.csv", many)


def test_tables_are_scored_compared_and_reported(tables, tmp_path):
    one, two, references = tables
    for name, table in (("one", one), ("two", two)):
        more = ["--predictions", str(table), "--references", str(references), "--out", str(tmp_path / name)]
        ran = CliRunner().invoke(app, ["eval", "captioning", *more])
        assert ran.exit_code == 0, ran.output
    (result,) = read_results(tmp_path / "one" / "results.json")
    assert [row["id"] for row in result.shown["captions"]] == ["c0", "c1", "c2", "c3"]
    given = {row["id"]: row["caption"] for row in result.shown["captions"]}
    expected = score_captions(given, {row["id"]: row["references"] for row in result.shown["captions"]})
    assert all(result.value(m.name) == pytest.approx(m.value, abs=1e-12) for m in expected if m.value is not None)
    assert result.protocol.checkpoint == "" and result.protocol.clips == 4
    files = [str(tmp_path / name / "results.json") for name in ("one", "two")]
    ran = CliRunner().invoke(app, ["eval", "--compare", *files])
    assert ran.exit_code == 0 and "cider_d" in ran.output and "not paired" not in ran.output
    page = write_report([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html", progress=False).read_text()
    assert "a dog far &lt;b&gt;away&lt;/b&gt;" in page and "&amp; its &lt;i&gt;echo&lt;/i&gt;" in page
    assert "<b>away</b>" not in page and "<i>echo</i>" not in page
    assert page.count("<b>a dog far away</b>") == 4  # the second run's captions beside the first's


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a checkpoint, or --predictions"),
        (["x.ckpt", "--predictions", "p", "--references", "r"], "name a checkpoint, or --predictions"),
        (["--predictions", "p"], "name a checkpoint, or --predictions"),
        (["x.ckpt", "--references", "r"], "name a checkpoint, or --predictions"),
        (["--predictions", "p", "--references", "r", "--beams", "3"], "are for a checkpoint; leave them out"),
        (["--predictions", "p", "--references", "r", "--keywords", "k"], "are for a checkpoint; leave them out"),
        (["x.ckpt", "--method", "best"], "method is 'best'; allowed: greedy, beam, nucleus"),
    ],
)
def test_wrong_usage(arguments, message):
    ran = CliRunner().invoke(app, ["eval", "captioning", *arguments])
    assert ran.exit_code != 0 and isinstance(ran.exception, UsageError) and message in str(ran.exception)


def test_tables_that_do_not_fit(tables, tmp_path):
    other = write_table(tmp_path / "other.csv", [["d", "a dog"]])
    with pytest.raises(DataError, match="no id of"):
        caption_tables(other, tables[2])


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A short captioning run with a test set, labels' keywords, and one test clip that has no caption."""
    folder = tmp_path_factory.mktemp("run")
    write_shards(make_clips(folder / "sounds"), folder / "shards", codec="flac", progress=False)
    few = few_clips(folder / "few")
    few[2].captions.clear()
    write_shards(few, folder / "test", codec="flac", progress=False)
    (folder / "k.yaml").write_text(yaml.safe_dump({label: sorted(words) for label, words in KEYWORDS.items()}))
    torch.set_num_threads(1)
    more = [f"data.test=[{folder / 'test'}]", f"evaluation.keywords={folder / 'k.yaml'}", "trainer.max_epochs=8"]
    return folder, train(compose(trained, folder / "run", folder / "shards", *more))


def test_a_run_ends_with_numbers_and_a_page(run):
    folder, numbers = run
    assert json.loads((folder / "run" / "metrics.json").read_text()) == numbers
    (result,) = read_results(folder / "run" / "results.json")
    assert numbers["clips"] == 4 and numbers["loss"] > 0 and len(result.shown["captions"]) == 3
    assert numbers["captioning/cider_d"] == result.value("cider_d") and "captioning/names_label" in numbers
    assert {"captioning/copies", "captioning/distinct", "captioning/clap_score"} < numbers.keys()
    assert any(line.startswith("1 of 4 clips of") and "no captions to compare with" in line for line in result.remarks)
    page = (folder / "run" / "report" / "index.html").read_text()
    assert page.count("<audio controls") >= 3
    for one in result.shown["captions"]:
        assert one["references"][0] in page


def test_the_verb_gives_a_runs_own_numbers_again(run, tmp_path):
    folder, numbers = run
    checkpoint = folder / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(DataError, match="1 of 4 clips of"):
        caption(checkpoint)
    few = [clip for clip in few_clips(tmp_path / "few") if clip.id != "note18"]
    write_shards(few, tmp_path / "three", codec="flac", progress=False)
    done = caption(checkpoint, [str(tmp_path / "three")], keywords=folder / "k.yaml")
    (result,) = done.results
    for one in result.rows[POOLED]:
        assert one.value == pytest.approx(numbers[f"captioning/{one.metric}"], abs=1e-5), one.metric
    write_evaluated(tmp_path / "out", done)
    assert (tmp_path / "out" / "embeddings").is_dir()
    own = caption(checkpoint, [str(tmp_path / "three")], Decoding(beams=2))  # not with the run's keywords
    assert "names_label" not in {one.metric for one in own.results[0].rows[POOLED]}


def test_keywords_are_looked_at_before_training(trained, shards, tmp_path):
    (tmp_path / "k.yaml").write_text("low_note: [low]")
    more = [f"data.test=[{shards}]", f"evaluation.keywords={tmp_path / 'k.yaml'}"]
    with pytest.raises(DataError, match=r"1 labels of the clips have no keywords \(high_note\)"):
        train(compose(trained, tmp_path / "run", shards, *more))
    assert not (tmp_path / "run" / "checkpoints").exists()
