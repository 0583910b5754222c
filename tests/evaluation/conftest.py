"""A program `java` for tests of what is said to the real ones and done with their answers.

Fake: Java itself, METEOR's arithmetic (here: the share of candidate words in the first reference, mean over the set
plus 10) and SPICE's (1 / number of words). Real: the processes, their pipes, files and ends.
"""

import csv
import sys
from pathlib import Path

import pytest

from tests.conftest import SHARED

PROGRAM = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(arguments) + "\\n")
if arguments == ["-version"]:
    print('Picked up JAVA_TOOL_OPTIONS: -Dx\\nopenjdk version "{version}" 2020-01-01', file=sys.stderr)
elif "{fails}":
    print("Error: {fails}\\n\\tat Meteor.main", file=sys.stderr)
    sys.exit(3)
elif any(text.endswith("SpiceScorer") for text in arguments):
    place = arguments.index("edu.anu.spice.SpiceScorer")
    clips = json.load(open(arguments[place + 1]))
    scores = [dict(image_id=c["image_id"], scores=dict(All=dict(f=1 / len(c["test"].split())))) for c in clips]
    assert all(isinstance(c["refs"], list) and c["refs"] for c in clips)
    json.dump(scores[::-1], open(arguments[arguments.index("-out") + 1], "w"))
else:
    for line in sys.stdin:
        kind, *parts = line.rstrip("\\n").split(" ||| ")
        if kind == "SCORE":
            words, first = parts[-1].split(), set(parts[0].split())
            print(sum(word in first for word in words) / len(words), flush=True)
        elif kind == "EVAL":
            print(*parts, 10 + sum(map(float, parts)) / len(parts), sep="\\n", flush=True)
        else:
            sys.exit(f"no such line: {{line}}")
"""


class FakeJava:
    """Puts the program and a package `pycocoevalcap` where they are looked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log, self.package = folder / "log", folder / "site" / "pycocoevalcap"
        self._program = folder / "home" / "bin" / "java"
        self._program.parent.mkdir(parents=True)
        for jar in ("meteor/meteor-1.5.jar", "spice/spice-1.0.jar"):
            (self.package / jar).parent.mkdir(parents=True)
            (self.package / jar).touch()
        self.install()
        monkeypatch.syspath_prepend(folder / "site")
        monkeypatch.setenv("JAVA_HOME", str(folder / "home"))
        monkeypatch.delenv("ATR_SPICE", raising=False)

    def install(self, version: str = "11.0.2", fails: str = "") -> None:
        self._program.write_text(PROGRAM.format(python=sys.executable, log=str(self.log), version=version, fails=fails))
        self._program.chmod(0o755)

    def corenlp(self, folder: Path) -> None:
        """The two jars that SPICE looks for, empty."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
            (folder / name).touch()


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeJava:
    return FakeJava(tmp_path / "java", monkeypatch)


@pytest.fixture(scope="session")
def published() -> list[dict[str, str]]:
    """912 predictions with their references and scores, of the shared data."""
    path = SHARED / "data" / "metrics" / "outputs_audiocaps_test.csv"
    if not path.is_file():
        pytest.skip("needs the published scores of 912 captions (shared data)")
    csv.field_size_limit(1 << 24)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
