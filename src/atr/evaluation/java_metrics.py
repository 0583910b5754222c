"""Caption metrics that need Java: METEOR and SPICE. Nothing is downloaded; what is missing is said instead.

The programs are those of the package `pycocoevalcap`. They run as child processes, which are gone when a function
returns or raises.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np

from atr.errors import DataError

Words = Sequence[str]
SPICE_FOLDER = "ATR_SPICE"  # the environment variable
_CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_NEWEST_FOR_SPICE = 14  # it writes its result through a JavaScript engine that Java 15 no longer has
# Numbers with a decimal point and text as UTF-8, whatever the system's language is. A system with several languages
# sets the `format` ones, which then go before the others.
_PLAIN = [
    "-Duser.language=en", "-Duser.country=US", "-Duser.language.format=en", "-Duser.country.format=US",
    "-Dfile.encoding=UTF-8",
]  # fmt: skip
_SEPARATOR = " ||| "


def meteor_missing() -> str:
    """What METEOR lacks on this machine and how to get it; empty when it can run."""
    if _package() is None:
        return 'METEOR needs the package pycocoevalcap: pip install "atr[caption-metrics]"'
    return _java_missing("METEOR")


def spice_missing(folder: Path | None = None) -> str:
    """What SPICE lacks on this machine and how to get it; empty when it can run.

    Args:
        folder: see `spice`.
    """
    package = _package()
    if package is None:
        return 'SPICE needs the package pycocoevalcap: pip install "atr[caption-metrics]"'
    reasons = []
    place = _corenlp(folder)
    if lacking := [name for name in _CORENLP if not (place / name).is_file()]:
        reasons.append(
            f"SPICE needs {' and '.join(lacking)}, not in {place}: take them from stanford-corenlp-full-2015-12-09.zip "
            f"(https://nlp.stanford.edu/software, 400 MB) and name their folder in {SPICE_FOLDER}"
        )
    if reason := _java_missing("SPICE"):
        reasons.append(reason)
    elif (version := _java_version()) > _NEWEST_FOR_SPICE:
        reasons.append(
            f"SPICE needs Java 8 to {_NEWEST_FOR_SPICE}, and {_java()} is Java {version}: install an older one beside "
            "it and name its folder in JAVA_HOME"
        )
    return "; ".join(reasons)


def meteor(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[float, np.ndarray]:
    """METEOR 1.5 (Denkowski and Lavie 2014, DOI 10.3115/v1/W14-3348), English, normalised, of the set and of each clip.

    The score of the set is made of the counts of all clips; it is not the mean of the clips' scores.

    Args:
        candidates: one caption per clip, as words.
        references: one or more per clip.

    Returns:
        The set's, and `(N,)` float64 of the clips.

    Raises:
        DataError: the program ended early or answered something else; what it said is in the message.
        FileNotFoundError: see `meteor_missing`, which is to be asked first.
    """
    package, java = _package(), _java()
    if package is None or java is None:
        raise FileNotFoundError(meteor_missing())
    jar = package / "meteor" / "meteor-1.5.jar"
    command = [java, *_PLAIN, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    with _dialogue(command) as program:
        counts = [
            program.ask("SCORE", *(" ".join(one) for one in own), " ".join(candidate))
            for candidate, own in zip(candidates, references, strict=True)
        ]
        lines = [program.ask("EVAL", *counts), *(program.answer() for _ in counts)]
    try:
        scores = [float(line) for line in lines]
    except ValueError as error:
        raise DataError(f"METEOR answered no number ({error}); are the candidates words without line ends?") from error
    return scores[-1], np.array(scores[:-1])


def spice(candidates: Sequence[Words], references: Sequence[Sequence[Words]], folder: Path | None = None) -> np.ndarray:
    """SPICE (Anderson et al. 2016, arXiv:1607.08822) of each clip; the set's is their mean.

    Args:
        candidates: one caption per clip, as words.
        references: one or more per clip.
        folder: with the two jars of Stanford CoreNLP 3.6.0; when None that of the environment variable ATR_SPICE,
            else `spice/lib` of `pycocoevalcap`, where its own download puts them.

    Returns:
        `(N,)` float64.

    Raises:
        DataError: the program failed; what it said is in the message.
        FileNotFoundError: see `spice_missing`, which is to be asked first.
    """
    package, java = _package(), _java()
    if package is None or java is None:
        raise FileNotFoundError(spice_missing(folder))
    clips = [
        {"image_id": row, "test": " ".join(candidate), "refs": [" ".join(one) for one in own]}
        for row, (candidate, own) in enumerate(zip(candidates, references, strict=True))
    ]
    jars = [package / "spice" / "spice-1.0.jar", *(_corenlp(folder) / name for name in _CORENLP)]
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile() as complaints:
        source, result = Path(place) / "captions.json", Path(place) / "scores.json"
        source.write_text(json.dumps(clips))
        # Without its cache, which needs a database library that is there for few systems.
        command = [java, *_PLAIN, "-Xmx8G", "-cp", os.pathsep.join(map(str, jars)), "edu.anu.spice.SpiceScorer"]
        command += [str(source), "-out", str(result), "-silent"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints)
        if done.returncode or not result.is_file():
            raise DataError(f"SPICE ended with status {done.returncode}: {_tail(complaints)}")
        scores = {clip["image_id"]: clip["scores"]["All"]["f"] for clip in json.loads(result.read_text())}
    return np.array([scores[row] for row in range(len(clips))], dtype=np.float64)


class _Program:
    """A running program that answers lines with lines."""

    def __init__(self, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._in, self._out = process, process.stdin, process.stdout
        self._complaints = complaints

    def ask(self, *parts: str) -> str:
        """The first line that it answers to a line of `parts`."""
        try:
            self._in.write(f"{_SEPARATOR.join(parts)}\n".encode())
            self._in.flush()
        except BrokenPipeError:
            pass  # it has ended: there is no answer either
        return self.answer()

    def answer(self) -> str:
        """Its next line."""
        line = self._out.readline().decode().strip()
        if not line:
            self._process.kill()
            raise DataError(f"METEOR stopped (status {self._process.wait()}): {_tail(self._complaints)}")
        return line


@contextmanager
def _dialogue(command: list[str]) -> Iterator[_Program]:
    """Starts a program, and ends it whatever happens."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints)
        try:
            yield _Program(process, complaints)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()  # type: ignore[union-attr]


def _tail(complaints: IO[bytes]) -> str:
    """The last lines that a program wrote to its standard error."""
    complaints.seek(0)
    lines = [line.strip() for line in complaints.read().decode(errors="replace").splitlines()]
    telling = [line for line in lines if line and not line.startswith(("at ", "... "))]  # without Java's stack
    return " / ".join(telling[-3:]) or "it said nothing"


def _package() -> Path | None:
    """The folder of `pycocoevalcap`, which is not imported."""
    found = importlib.util.find_spec("pycocoevalcap")
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]) if places else None


def _corenlp(folder: Path | None) -> Path:
    if folder is None and (named := os.environ.get(SPICE_FOLDER)):
        folder = Path(named)
    return folder or (_package() or Path()) / "spice" / "lib"


def _java() -> str | None:
    """The program `java` of JAVA_HOME, else that of the path."""
    own = Path(os.environ.get("JAVA_HOME") or "/dev/null") / "bin" / "java"
    return str(own) if own.is_file() else shutil.which("java")


def _java_missing(metric: str) -> str:
    if _java() is None:
        return f"{metric} needs Java, and no program java is on the path: install a Java runtime (8 or later)"
    return ""


def _java_version() -> int:
    """8 for `version "1.8.0_292"`, 17 for `version "17.0.15"`; 0 when it says none."""
    said = subprocess.run([_java() or "java", "-version"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr)
    return int(found[1]) if found else 0
