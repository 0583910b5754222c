"""METEOR and SPICE: the real METEOR where Java and pycocoevalcap are, a fake `java` (see conftest.py) everywhere."""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from atr.errors import DataError
from atr.evaluation.java_metrics import meteor, meteor_missing, spice, spice_missing
from atr.evaluation.ngrams import tokenise

real_meteor = pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None or shutil.which("java") is None,
    reason="needs Java and pycocoevalcap (the extra caption-metrics)",
)
CANDIDATES = [tokenise("An engine is running and a man is speaking"), tokenise("Rain falls on a roof")]
REFERENCES = [
    [
        tokenise(text)
        for text in (
            "Constant rattling noise and sharp vibrations",
            "Vibrations and rattling with people speaking in the distance",
            "A machine is making clicking sound as people talk in the background",
            "Clicking and screeching metal with people speaking",
            "A machine makes stitching sounds while people are talking in the background",
        )
    ],
    [tokenise("Rain is falling on a metal roof"), tokenise("Heavy rain")],
]
FIRST = 0.147273404923719  # published for the first of these clips


@pytest.fixture(autouse=True)
def every_process_is_gone_in_the_end(monkeypatch):
    """Ended, and waited for: no zombie."""
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    yield started
    assert [process.args for process in started if process.returncode is None] == []


@real_meteor
def test_meteor_of_a_published_clip_where_numbers_have_a_decimal_comma(monkeypatch):
    """The program itself would stop without a word."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE -Duser.language.format=de")
    together, each = meteor(CANDIDATES, REFERENCES)
    assert each[0] == pytest.approx(FIRST, abs=1e-12)
    assert together != pytest.approx(each.mean(), abs=1e-3), "the set's is made of counts"
    assert each.min() < together < each.max()


@real_meteor
@pytest.mark.slow
def test_meteor_reproduces_912_published_scores_and_not_with_rotated_predictions(published):
    candidates = [tokenise(row["cands"]) for row in published]
    references = [[tokenise(text) for text in ast.literal_eval(row["mrefs"])] for row in published]
    expected = np.array([float(row["best_fense.cands.meteor"]) for row in published])
    together, each = meteor(candidates, references)
    assert abs(each - expected).max() < 1e-12
    assert together == pytest.approx(0.23195610281653994, abs=1e-12)
    part = slice(0, 50)
    _, rotated = meteor(candidates[1:51], references[part])
    assert np.mean(abs(rotated - expected[part]) > 1e-6) > 0.9


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_real_java_that_cannot_run_its_jar_is_an_error_and_leaves_no_process(fake_java, monkeypatch):
    monkeypatch.delenv("JAVA_HOME")
    (fake_java.package / "meteor" / "meteor-1.5.jar").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"METEOR stopped \(status 1\): .*jarfile"):
        meteor(CANDIDATES, REFERENCES)


def test_meteor_asks_for_counts_and_then_for_scores(fake_java):
    assert meteor_missing() == ""
    together, each = meteor(CANDIDATES, REFERENCES)
    np.testing.assert_allclose(each, [1 / 9, 4 / 5])
    assert together == pytest.approx(10 + each.mean())
    (command,) = (json.loads(line) for line in fake_java.log.read_text().splitlines())
    assert "-Duser.language.format=en" in command
    assert command[-7:] == [
        str(fake_java.package / "meteor" / "meteor-1.5.jar"),
        *["-", "-", "-stdio", "-l", "en", "-norm"],
    ]


def test_many_clips_do_not_block_the_pipes(fake_java):
    _, each = meteor(CANDIDATES * 2000, REFERENCES * 2000)
    np.testing.assert_allclose(each, [1 / 9, 4 / 5] * 2000)


def test_a_program_that_ends_early_is_an_error_with_its_words(fake_java):
    fake_java.install(fails="no memory")
    with pytest.raises(DataError, match=r"METEOR stopped \(status -?\d+\): .*Error: no memory$"):
        meteor(CANDIDATES * 2000, REFERENCES * 2000)


def test_an_exception_in_the_midst_leaves_no_process(fake_java, every_process_is_gone_in_the_end):
    def breaks():
        yield REFERENCES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        meteor(CANDIDATES, breaks())
    assert len(every_process_is_gone_in_the_end) == 1, "one was started"


def test_spice_reads_its_scores_in_the_order_of_the_clips(fake_java, tmp_path, monkeypatch):
    fake_java.corenlp(tmp_path / "jars")
    monkeypatch.setenv("ATR_SPICE", str(tmp_path / "jars"))
    assert spice_missing() == ""
    np.testing.assert_allclose(spice(CANDIDATES, REFERENCES), [1 / 9, 1 / 5])
    command = json.loads(fake_java.log.read_text().splitlines()[-1])
    jars = command[command.index("-cp") + 1].split(":")
    assert [Path(jar).name for jar in jars] == [
        "spice-1.0.jar", "stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"
    ]  # fmt: skip
    assert not Path(command[command.index("-out") + 1]).exists(), "its files are gone"


def test_spice_that_fails_is_an_error_with_its_words(fake_java, tmp_path):
    fake_java.corenlp(tmp_path)
    fake_java.install(fails="could not score")
    with pytest.raises(DataError, match=r"SPICE ended with status 3: .*could not score$"):
        spice(CANDIDATES, REFERENCES, tmp_path)


def test_spice_says_which_files_it_lacks_and_downloads_nothing(fake_java, tmp_path):
    assert "stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models.jar" in spice_missing()
    assert str(fake_java.package / "spice" / "lib") in spice_missing()
    fake_java.corenlp(tmp_path)
    (tmp_path / "stanford-corenlp-3.6.0-models.jar").unlink()
    said = spice_missing(tmp_path)
    assert "needs stanford-corenlp-3.6.0-models.jar, not in" in said
    assert "stanford-corenlp-full-2015-12-09.zip" in said and "ATR_SPICE" in said
    assert not any(name.startswith("pycocoevalcap") for name in sys.modules), "its own code would download"


@pytest.mark.parametrize(
    ("version", "fine"), [("1.8.0_292", True), ("14.0.1", True), ("15", False), ("17.0.15", False)]
)
def test_spice_says_that_java_is_too_new_for_it(fake_java, tmp_path, version, fine):
    fake_java.corenlp(tmp_path)
    fake_java.install(version=version)
    assert (spice_missing(tmp_path) == "") == fine
    assert fine or f"is Java {version.split('.')[0]}" in spice_missing(tmp_path)
    assert meteor_missing() == ""


def test_without_java_both_say_how_to_get_it(fake_java, tmp_path, monkeypatch):
    fake_java.corenlp(tmp_path)
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "METEOR needs Java" in meteor_missing() and "install a Java runtime" in meteor_missing()
    assert "SPICE needs Java" in spice_missing(tmp_path)
    with pytest.raises(FileNotFoundError, match="METEOR needs Java"):
        meteor(CANDIDATES, REFERENCES)


def test_without_the_package_both_name_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert 'pip install "atr[caption-metrics]"' in meteor_missing()
    assert 'pip install "atr[caption-metrics]"' in spice_missing()
