"""The command line as a user meets it: real processes, exit statuses, messages."""

import json
import subprocess
import sys
import warnings

import pytest
import soundfile
from typer.testing import CliRunner

from atr.cli import app, main
from atr.experiment import train
from tests.conftest import ROOT, TINY, tone


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "atr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.fixture
def checkpoint(tiny):
    train(tiny("trainer.max_epochs=1"))
    return tiny.run_dir / "checkpoints" / "last.ckpt"


def test_train_evaluate_classify(tmp_path, shards):
    overrides = [*TINY, f"data.train=[{shards}]", f"data.test=[{shards}]", "data.batch_size=8", "trainer.max_epochs=1"]
    trained = run("train", *overrides, "augment=none", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "zero-shot   accuracy" in trained.stdout and "text → audio" in trained.stdout
    (run_dir,) = (tmp_path / "runs" / "demo").iterdir()
    assert (run_dir / "metrics.json").is_file() and (run_dir / "report" / "index.html").is_file()

    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    numbers = json.loads((run_dir / "metrics.json").read_text())
    for verb, prefix in (("retrieval", "retrieval"), ("zero-shot", "zero_shot")):  # on the run's own test set
        evaluated = run("eval", verb, checkpoint, "--json", "--out", tmp_path / verb, cwd=tmp_path)
        assert evaluated.returncode == 0, evaluated.stderr
        assert evaluated.stdout == (tmp_path / verb / "results.json").read_text()
        rows = [row for one in json.loads(evaluated.stdout)["results"] for row in one["rows"]]
        found = {f"{prefix}/{row['metric']}": row["value"] for row in rows}
        assert found == pytest.approx({name: numbers[name] for name in found}, abs=1e-6) and len(found) >= 1
    drawn = run("report", run_dir, tmp_path / "retrieval", "--out", tmp_path / "both.html", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    compared = run("eval", "--compare", run_dir / "results.json", tmp_path / "retrieval" / "results.json", cwd=tmp_path)
    assert compared.returncode == 0 and "0 of 15 differences exceed the noise" in compared.stdout, compared.stdout

    soundfile.write(tmp_path / "x.wav", tone(300), 16_000)
    answered = run("classify", checkpoint, "x.wav", "--labels", "low note, high note", "--json", cwd=tmp_path)
    assert answered.returncode == 0, answered.stderr
    assert {row["label"] for row in json.loads(answered.stdout)["x.wav"]} == {"low note", "high note"}


def test_the_table_and_prompts_of_eval(checkpoint, tiny):
    arguments = ["eval", "zero-shot", str(checkpoint), str(tiny.shards), "--template", "a {label}"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "'a {label}'" in result.stdout.replace("\n", "")
    wrong = run("eval", "zero-shot", checkpoint, "--template", "a label")
    assert wrong.returncode == 2 and "has no {label} in it" in wrong.stderr


def test_exit_statuses(checkpoint, tmp_path, capsys, monkeypatch):
    cases = [
        (["train", "trainer.max_epoch=3"], 2, "Did you mean trainer.max_epochs?"),
        (["train", f"data.train=[{tmp_path}]"], 1, "holds no .tar"),
        (
            ["train", f"data.train=[{ROOT / 'data' / 'esc10'}]"],
            1,
            "holds no .tar; its folders do, name one of them: fold1",
        ),
        (["train", "experiment=atr_pretrain", "init=null", "data=basic"], 1, "audiocaps/train does not exist"),
        (["train", "data.train=[data/esc10/fold9]"], 1, "fold9 does not exist"),
        (["eval", "retrieval", "nothing.ckpt"], 1, "nothing.ckpt is not there"),
        (["classify", checkpoint, "gone.wav"], 1, "gone.wav: no such file"),
        (["nonsense"], 2, "No such command"),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() sets its own
    for arguments, status, message in cases:
        monkeypatch.setattr(sys, "argv", ["atr", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert ended.value.code == status, (arguments, said)
        assert message in said.replace("\n", " ") and "Traceback" not in said, (arguments, said)


@pytest.mark.parametrize("verb", ["train", "eval", "classify"])
def test_help_has_an_example(verb):
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0 and f"atr {verb} " in result.stdout


@pytest.mark.slow
def test_train_py_is_the_same_thing(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "trainer.max_epoch=3"], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 2 and "Did you mean trainer.max_epochs?" in result.stderr
    listed = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--cfg", "job"], capture_output=True, text=True, cwd=tmp_path
    )
    assert listed.returncode == 0 and "batch_size" in listed.stdout
