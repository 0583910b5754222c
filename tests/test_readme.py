"""The README's commands and names are real."""

import re
import shlex

import pytest

from atr.cli import app
from atr.cli_data import data
from atr.cli_eval import evaluation, report
from atr.cli_use import use
from atr.config import compose_config
from atr.datasets.corpus import corpus_names, find_corpus
from atr.datasets.manifest import FIELDS, from_line
from tests.conftest import ROOT, make_clips

README = (ROOT / "README.md").read_text()
TRAINING = [line.split("#")[0].strip() for line in README.splitlines() if re.match(r"python train\.py \w+[.=]", line)]


@pytest.mark.parametrize("command", TRAINING)
def test_every_training_command_composes(command):
    compose_config([part for part in shlex.split(command)[2:] if not part.startswith("-")])


def test_every_option_of_the_table_exists():
    for cell in re.findall(r"^\|[^|]*\|[^|]*\| (`.*) \|$", README, re.MULTILINE):
        for option in re.findall(r"`([^`]+)`", cell):
            key, _, value = option.partition("=")
            if key.startswith("model/") or key in ("loss", "masking", "augment", "optimizer"):
                compose_config([option])
            elif "." in key and not key.endswith("*") and key not in ("model.text.name",):
                compose_config([f"{key}={value or 1}"])


def test_every_file_of_the_tree_is_there_and_every_room_is_in_it():
    tree = README.split("```\ntrain.py ")[1].split("```")[0]
    for name in re.findall(r"[\w/]+\.py", tree):
        assert list(ROOT.glob(f"**/{name}")) if "/" not in name else (ROOT / name).exists(), name
    for path in (ROOT / "src" / "atr").rglob("*.py"):
        if not path.name.startswith("__"):
            assert path.name in tree, path


def test_the_verbs_of_the_readme_are_those_of_the_command():
    commands = [command for part in (app, data, use, report) for command in part.registered_commands]
    verbs = {command.name or command.callback.__name__ for command in commands} | {"eval"}
    ways = {command.name or command.callback.__name__ for command in evaluation.registered_commands}
    assert set(re.findall(r"^atr eval ([a-z-]+) ", README, re.MULTILINE)) <= ways | {"--compare"}
    assert ways <= set(re.findall(r"atr eval ([a-z-]+)", README))
    assert set(re.findall(r"\batr (\w+) CHECKPOINT", README)) <= verbs
    assert verbs == {
        "train", "eval", "classify", "embed", "search", "export", "doctor", "corpora", "prepare", "shard",
        "check", "leaks", "stats", "report", "caption",
    }  # fmt: skip
    assert set(re.findall(r"^atr (\w+) ", README, re.MULTILINE)) <= verbs


def test_every_corpus_of_the_readme_exists_and_those_unverified_are_marked():
    row = next(line for line in README.splitlines() if line.startswith("| `audiocaps`"))
    marked = {name: bool(star) for name, star in re.findall(r"`(\w+)`(\\\*)?", row)}
    assert marked == {name: bool(find_corpus(name).CARD.unverified) for name in corpus_names()}


def test_your_own_sounds_as_the_readme_does_it(tmp_path, monkeypatch):
    make_clips(tmp_path / "sounds", 1)
    (tmp_path / "sounds" / "note00.wav").rename(tmp_path / "sounds" / "dog1.wav")
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(from pathlib.*?)```", README, re.DOTALL)
    exec(snippet, {})
    assert (tmp_path / "data" / "mine" / "train" / "00000.tar").is_file()


def test_labels_as_captions_as_the_readme_does_it():
    (option,) = re.findall(r"""\*\*Labels as captions\.\*\* .*?`'(.*?)'`""", README, re.DOTALL)
    assert compose_config([option]).data.label_template == "The sound of {labels}"


def test_the_manifest_of_the_readme_is_one_and_its_table_has_every_field():
    section = README.split("### Manifests")[1].split("\n## ")[0]
    (line,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    assert from_line(line, "README").id == "dog1"
    cells = " ".join(re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", cells)) == set(FIELDS)
