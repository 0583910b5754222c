"""`atr classify | embed | search | caption` as a user meets them."""

import csv
import json

import pytest
import soundfile
from typer.testing import CliRunner

import atr
from atr.cli import app
from atr.errors import UsageError
from tests.conftest import tone
from tests.test_cli import run


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    (folder / "inner").mkdir(parents=True)
    for number in range(4):
        soundfile.write(folder / "inner" / f"{number}.wav", tone(200 + 90 * number, 0.8 + 0.5 * number), 16_000)
    return folder


def test_embed_then_search(trained, sounds, tmp_path):
    (sounds / "bad.wav").write_text("no sound")
    done = run("embed", trained, "sounds", "--out", "out.npz", "--windows", "each", cwd=tmp_path)
    assert done.returncode == 1, done.stderr  # one file is bad; all others are there
    assert "4 clips, 0.1 min, 8 vectors of 32 numbers: out.npz" in done.stdout
    assert "1 could not be used:\n  bad.wav cannot be decoded" in done.stderr and "Traceback" not in done.stderr

    found = run("search", "out.npz", "a low note", "high", "--top", "2", "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    rows = json.loads(found.stdout)
    assert [row["text"] for row in rows] == ["a low note", "high"]
    assert [hit["rank"] for hit in rows[0]["hits"]] == [1, 2]
    model = atr.load(trained)
    best = rows[0]["hits"][0]
    samples, rate = soundfile.read(sounds / best["id"], dtype="float32")
    window = samples[round(best["start"] * rate) : round(best["end"] * rate)]
    cosine = model.similarity(model.encode_audio((window, rate)), model.encode_text("a low note")).item()
    assert best["score"] == pytest.approx(cosine, abs=1e-5)

    table = CliRunner().invoke(app, ["search", str(tmp_path / "out.npz"), "[bold]low", "--top", "1"])
    assert table.exit_code == 0 and "[bold]low" in table.stdout and "score" in table.stdout


def test_classify_folders_to_csv(trained, sounds, tmp_path):
    (sounds / "bad.wav").write_text("no sound")
    (tmp_path / "labels.txt").write_text("low note\nhigh note\n\ndog\n", encoding="utf-8")
    done = run(
        "classify", trained, "sounds", "--csv", "out.csv", "--top", "2", "--labels-file", "labels.txt", cwd=tmp_path
    )
    assert done.returncode == 1 and "1 could not be used:\n  sounds/bad.wav cannot be decoded" in done.stderr
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label_1", "cosine_1", "label_2", "cosine_2"]
    assert [row["path"] for row in rows] == [f"sounds/inner/{number}.wav" for number in range(4)]
    model = atr.load(trained)
    for row in rows:
        ranked = model.classify(tmp_path / row["path"], ["low note", "high note", "dog"])
        assert [row["label_1"], row["label_2"]] == [label for label, _ in ranked[:2]]
        assert float(row["cosine_1"]) == pytest.approx(ranked[0][1], abs=1e-5)


def test_caption_prints_lines_and_lists_bad_files(captioning, sounds, tmp_path):
    (sounds / "bad.wav").write_text("no sound")
    settings = ["--method", "nucleus", "--top-p", "1", "--seed", "2", "--candidates", "3"]
    done = run("caption", captioning, "sounds", *settings, cwd=tmp_path)
    assert done.returncode == 1 and "1 could not be used:\n  bad.wav cannot be decoded" in done.stderr
    files, how = sorted((sounds / "inner").iterdir()), {"method": "nucleus", "top_p": 1.0, "seed": 2, "candidates": 3}
    model = atr.load(captioning)
    found = model.caption(files, **how)
    assert done.stdout.splitlines() == [f"inner/{file.name}  {text}" for file, text in zip(files, found, strict=True)]
    assert len(set(found)) == 4 and "Traceback" not in done.stderr

    invoke = CliRunner().invoke(app, ["caption", str(captioning), str(files[3]), "--times", "--beams", "3"])
    assert invoke.exit_code == 0, invoke.exception
    assert invoke.stdout.splitlines() == [
        f"{files[3]}  {one.start:.2f}-{one.end:.2f} s  {one.text}" for one in model.caption(files[3], True, beams=3)
    ]


def test_caption_refuses(trained, captioning, sounds):
    contrastive = CliRunner().invoke(app, ["caption", str(trained), str(sounds)])
    assert isinstance(contrastive.exception, UsageError) and "this is a contrastive" in str(contrastive.exception)
    method = CliRunner().invoke(app, ["caption", str(captioning), str(sounds), "--method", "sampling"])
    assert "method is 'sampling'; allowed: greedy, beam, nucleus" in str(method.exception)


def test_wrong_usage(trained, sounds, tmp_path):
    invoke = CliRunner().invoke
    both = invoke(app, ["classify", str(trained), str(sounds), "--labels", "a", "--labels-file", "x"])
    assert "both --labels and --labels-file" in str(both.exception)
    nowhere = invoke(app, ["classify", str(trained), str(sounds), "--csv", str(tmp_path / "no" / "x.csv")])
    assert "its folder does not exist" in str(nowhere.exception)
    missing = invoke(app, ["classify", str(trained), str(sounds), "--labels-file", str(tmp_path / "x.txt")])
    assert "cannot be read as UTF-8" in str(missing.exception)
    (tmp_path / "empty.txt").write_text("\n")
    empty = invoke(app, ["classify", str(trained), str(sounds), "--labels-file", str(tmp_path / "empty.txt")])
    assert "is empty" in str(empty.exception)


@pytest.mark.parametrize("verb", ["embed", "search", "caption"])
def test_help_has_an_example(verb):
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0 and f"atr {verb} " in result.stdout
