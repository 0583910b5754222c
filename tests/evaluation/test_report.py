"""The report: one file that needs nothing else, with what it should show, for one run and for several."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile

from atr.errors import DataError, UsageError
from atr.evaluation.record import read_results, write_results
from atr.evaluation.report import FEWEST, PAGE_PLAYERS, different_settings, list_length, signed, write_report
from atr.evaluation.report import number as shown
from atr.evaluation.runs import read_runs
from atr.evaluation.saved import SavedSet, write_saved
from tests.evaluation.made import make_run, result, unit

NASTY = "<script>alert('1')</script>"


@pytest.fixture
def page(tmp_path):
    """Writes a page and gives its text."""

    def write(*runs):
        return write_report(runs, tmp_path / "pages" / "index.html", progress=False).read_text()

    return write


def headings(text):
    return re.findall(r"<h[23][^>]*>(.*?)</h[23]>", text)


def test_a_run_as_a_page(tmp_path, shards, page):
    text = page(make_run(tmp_path / "demo" / "first", shards))
    assert headings(text) == [
        "All numbers", "Training", "notes", "zero-shot", "retrieval", "Hardest confusions, zero-shot",
        "Map of the clips", "Similarity of clips and captions", "Listen", "Remarks", "Configuration",
    ]  # fmt: skip
    assert text.count("<audio controls") == 3 + 12 and text.count("data:audio/mpeg;base64,") == 15
    assert text.count("data:image/png;base64,") == 5  # two curves, confusion, map, similarity
    assert "<h1>demo/first</h1>" in text and "−" not in text.split("All numbers")[1].split("Training")[0]
    for part in (
        "0.812",
        "n 16",
        "by fold: fold1",
        "one clip is short",
        "batch_size: 8",
        "The sound of {label}",
        "recall",
    ):
        assert part in text or part.capitalize() in text, part


def test_the_page_needs_nothing_else_and_may_fetch_nothing(tmp_path, shards, page):
    text = page(make_run(tmp_path / "one", shards), make_run(tmp_path / "two", shards, seed=1))
    assert re.findall(r"""(?:src|href|action|data)=["'](?!data:|#)[^"']*""", text) == []
    assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe", text)
    assert "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'" in text


def test_several_runs_stand_side_by_side(tmp_path, shards, page):
    one, two = (
        make_run(tmp_path / "one", shards, wrong=0),
        make_run(tmp_path / "two", shards, wrong=9, seed=1, windows="first"),
    )
    text = page(one, two)
    cells = [re.sub(r"<[^>]+>|\s+", " ", cell).split() for cell in re.findall(r"<td>(.*?)</td>", text, re.DOTALL)]
    first = cells.index(["accuracy", "n", "16"])
    assert cells[first + 1][:1] == ["1.000"] and cells[first + 2][:1] == ["0.438"]
    assert cells[first + 3][:2] == ["-0.562", "lower"] and cells[first + 3][-2:] == ["other", "windows"]
    assert "2 runs side by side" in text and "of 2 differences exceed the noise" in text
    assert '<tr class="differs"><td>windows</td><td>mean</td><td>first</td></tr>' in text
    assert "<tr><td>seed</td><td>0</td><td>1</td></tr>" in text and "run_dir</td>" not in text


def test_a_run_beside_itself_differs_by_nothing(tmp_path, shards, page):
    one = make_run(tmp_path / "one", shards)
    text = page(one, one)
    assert "0 of 2 differences exceed" in text and "within the noise" in text and ">higher<" not in text
    assert "+0.000 … +0.000" in text and "other clips" not in text and 'class="differs"' not in text


def test_everything_is_escaped(tmp_path, shards, page):
    run = make_run(tmp_path / "one", shards)
    with np.load(run / "embeddings" / "notes.npz") as file:
        columns = {name: file[name] for name in file.files}
    columns["titles"] = np.array([NASTY] * 16)
    columns["captions"] = np.array([f"{NASTY} {number}" for number in range(32)])
    columns["labels"] = np.array(json.dumps([[NASTY]] * 16))
    np.savez(run / "embeddings" / "notes.npz", **columns)
    one, other = read_results(run / "results.json")
    answers = [answer | {"label": NASTY} for answer in one.shown["answers"]]
    one.shown |= {"answers": answers, "per_class": {NASTY: 0.5}}
    one.remarks, one.rows["all"][0] = (
        [NASTY],
        one.rows["all"][0].__class__(**vars(one.rows["all"][0]) | {"metric": NASTY}),
    )
    write_results(run / "results.json", [one, other])
    (run / "config.yaml").write_text(f"name: {NASTY}\n")
    text = page(run)
    assert "<script" not in text and text.count("&lt;script&gt;") > 40


def test_titles_of_clips_of_real_shards_are_escaped(tmp_path, clips, page):
    from dataclasses import replace

    from atr.shards.write import write_shards

    write_shards([replace(clip, title=NASTY) for clip in clips], tmp_path / "nasty", codec="flac")
    text = page(make_run(tmp_path / "one", tmp_path / "nasty"))
    assert "<script" not in text and text.count("alert(&#39;1&#39;)") == 15


def test_a_run_that_is_still_training_has_curves_only(tmp_path, shards, page):
    run = make_run(tmp_path / "one", shards)
    (run / "results.json").unlink()
    shutil.rmtree(run / "embeddings")
    text = page(run)
    assert headings(text) == ["Training", "Configuration"] and "the run was not evaluated (yet)" in text


def test_a_results_file_alone_has_numbers_only(tmp_path, shards, page):
    run = make_run(tmp_path / "one", shards)
    shutil.copy(run / "results.json", tmp_path / "numbers.json")
    text = page(tmp_path / "numbers.json")
    assert "only a file of results: numbers only" in text and "Listen" not in headings(text)
    assert "no sound: the run kept no embeddings" in text and "<audio" not in text and text.count("no sound<") == 3


def test_runs_with_nothing_in_common_stand_beside_each_other(tmp_path, shards, page):
    one, two = make_run(tmp_path / "one", shards), make_run(tmp_path / "two", shards, dataset="other", curves=False)
    text = page(one, two)
    assert {"notes", "other"} <= set(headings(text)) and 'href="#set2"' in text
    assert "differences exceed" not in text and "A has no such result: differences are to B" in text


def test_embeddings_that_are_damaged_are_an_error_and_no_half_page_is_left(tmp_path, shards, page):
    run = make_run(tmp_path / "one", shards)
    (run / "embeddings" / "notes.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"notes\.npz holds no embeddings"):
        page(run)
    assert not (tmp_path / "pages").exists()


def test_what_is_no_run_or_no_place_for_a_page_is_named(tmp_path, shards):
    with pytest.raises(UsageError, match="0 runs are given"):
        write_report([], tmp_path / "index.html")
    run = make_run(tmp_path / "one", shards)
    with pytest.raises(DataError, match=r"index\.html: its folder cannot be made"):
        write_report([run], run / "results.json" / "index.html", progress=False)
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(DataError, match=r"config\.yaml is no YAML"):
        write_report([run, run], tmp_path / "index.html", progress=False)


def test_only_settings_that_differ_are_listed(tmp_path, shards):
    one, two = make_run(tmp_path / "one", shards), make_run(tmp_path / "two", shards)
    assert different_settings(read_runs([one, two])) == []
    (two / "config.yaml").write_text("seed: 0\ndata:\n  batch_size: 16\nema: 0.9\n")
    assert different_settings(read_runs([one, two, one])) == [
        ("data.batch_size", ["8", "16", "8"]), ("ema", ["–", "0.9", "–"])
    ]  # fmt: skip
    (two / "config.yaml").unlink()  # of which nothing is known
    assert different_settings(read_runs([one, two])) == []


@pytest.mark.parametrize("sets, length", [(1, 12), (6, 12), (10, 8), (40, 2), (500, FEWEST)])
def test_many_sets_have_shorter_lists(sets, length):
    assert list_length(sets) == length
    assert 2 * sets * length <= max(PAGE_PLAYERS, 2 * sets * FEWEST)


def test_a_large_set_of_many_labels_gives_a_small_page(tmp_path, page, monkeypatch):
    """4 000 clips of 527 labels, the sound of 24 of them being noise of 11 s, which packs worst."""
    monkeypatch.setattr("atr.evaluation.plane.MOST_CLIPS", 60)  # t-SNE of more takes seconds
    rng = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    for number in range(24):
        soundfile.write(tmp_path / "noise" / f"{number:04d}.wav", rng.uniform(-1, 1, 11 * 32_000), 32_000)
    (tmp_path / "noise.csv").write_text(
        "audio,id,label\n" + "".join(f"noise/{i:04d}.wav,{i:04d},x\n" for i in range(24))
    )
    names = [f"label {number}" for number in range(527)]
    ids = [f"{number:04d}" for number in range(4_000)]
    answers = rng.integers(527, size=4_000)
    labels = [names[number % 527] for number in range(4_000)]
    one = result(rng.random(4_000))
    one.shown = {
        "labels": names, "confusion": rng.integers(3, size=(527, 527)).tolist(),
        "per_class": {name: float(rng.random()) for name in names},
        "answers": [
            {"id": clip, "label": label, "answer": names[j], "score_label": 0.0, "score_answer": float(clip < "0024")}
            for clip, label, j in zip(ids, labels, answers, strict=True)
        ],
    }  # fmt: skip
    (tmp_path / "run" / "embeddings").mkdir(parents=True)
    write_results(tmp_path / "run" / "results.json", [one])
    vectors = unit(rng.normal(size=(4_000, 8)))
    kept = SavedSet(
        vectors, vectors, np.arange(4_000), ids, [f"caption {clip}" for clip in ids], [[label] for label in labels],
        [""] * 4_000, [""] * 4_000, [str(tmp_path / "noise.csv")],
    )  # fmt: skip
    write_saved(tmp_path / "run" / "embeddings" / "notes.npz", kept)
    text = page(tmp_path / "run")
    assert text.count("<audio") == 13  # the hardest twelve, and the first of those spread over the set
    assert text.count("no sound<") == 11 and text.count("no sound: the sound is no longer in") == 1
    assert text.count('<div class="bar">') == 40 and "487 labels between them are left out" in text
    assert "60 clips, drawn by chance, of 4,000 clips" in text and "20 most frequent of 527 labels" in text
    assert "most often mixed up" in text and len(text) < 5e6


@pytest.mark.parametrize(
    "value, text", [(0.73125, "0.731"), (1.0, "1.000"), (5.0, "5.00"), (29.66, "29.7"), (12_345.6, "12,345.6")]
)
def test_numbers_have_as_many_digits_as_they_need(value, text):
    assert shown(value) == text and signed(value) == f"+{text}" and signed(-value) == f"-{text}"


def test_each_answer_stands_beside_its_run(tmp_path, shards, page):
    one, two = make_run(tmp_path / "one", shards, wrong=0), make_run(tmp_path / "two", shards, wrong=1)

    def answers():
        found = re.findall(r'<div class="clip">(.*?)</div>\s*</div>', page(one, two), re.DOTALL)
        lines = re.findall(r">([AB])</span> (?:<[^>]*>)*(right|heard as)", found[0])
        return lines

    assert answers() == [("A", "right"), ("B", "heard as")]
    write_results(one / "results.json", read_results(one / "results.json")[1:])  # the first run lost its answers
    assert answers() == [("B", "heard as")]
