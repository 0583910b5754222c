"""What a run has left behind: results, embeddings, curves, configuration."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atr.errors import DataError, UsageError
from atr.evaluation.record import FILE, Result, read_results
from atr.evaluation.saved import FOLDER, SavedSet, file_of, read_saved

CURVES = "metrics.csv"
DESCRIBING = ("config.yaml", "environment.json")
LETTERS = "ABCDEFGHIJ"
Curve = tuple[list[int], list[float]]  # steps and values


@dataclass(frozen=True)
class Run:
    """One of the runs of a page.

    Attributes:
        letter: what the page calls it. name: the end of its path.
        results: empty where it was not evaluated.
        curves: by column of `metrics.csv`.
        texts: `config.yaml` and `environment.json`, as far as they are there.
        missing: what a reader may look for and why it is not there.
    """

    path: Path
    letter: str
    name: str
    results: list[Result] = field(default_factory=list)
    embeddings: dict[str, Path] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def of(self, dataset: str) -> list[Result]:
        """What was measured on a set."""
        return [one for one in self.results if one.protocol.dataset == dataset]

    def saved(self, dataset: str) -> SavedSet | None:
        """The embeddings of a set; None where there are none.

        Raises:
            DataError: their file is damaged.
        """
        path = self.embeddings.get(dataset)
        return read_saved(path) if path is not None else None


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Reads runs, in their order; embeddings are read when they are needed.

    Args:
        paths: folders of runs or of `atr eval … --out`, or files of results, which give numbers only.

    Raises:
        UsageError: none, or more than there are letters for.
        DataError: one is neither, or a file of it is damaged.
    """
    if not 1 <= len(paths) <= len(LETTERS):
        raise UsageError(f"{len(paths)} runs are given; a page takes 1 to {len(LETTERS)}")
    return [_read_run(path, letter) for path, letter in zip(paths, LETTERS, strict=False)]


def _read_run(path: Path, letter: str) -> Run:
    if path.is_file() and path.name != FILE:
        return Run(path, letter, _name(path), read_results(path), missing=["only a file of results: numbers only"])
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise DataError(f"{path} is not there; name the folder of a run, or one that `atr eval … --out FOLDER` made")
    results, curves = folder / FILE, folder / CURVES
    if not results.is_file() and not curves.is_file():
        raise DataError(
            f"{folder} holds neither {FILE} nor {CURVES}, so it is no run; `atr train` makes one, and "
            f"`atr eval retrieval CHECKPOINT --out FOLDER` writes {FILE} into another"
        )
    texts = {name: _text(folder / name) for name in DESCRIBING if (folder / name).is_file()}
    found = read_results(results) if results.is_file() else []
    missing = [] if results.is_file() else [f"no {FILE}: the run was not evaluated (yet); `atr eval` does that"]
    datasets = dict.fromkeys(one.protocol.dataset for one in found)
    embeddings = {name: file for name in datasets if (file := folder / FOLDER / file_of(name)).is_file()}
    without = [name for name in datasets if name not in embeddings]
    if without:
        missing.append(f"no {FOLDER}/*.npz for {', '.join(without)}: no map, no similarities, no sound of it")
    if not curves.is_file():
        missing.append(f"no {CURVES}: no curves of training")
    return Run(folder, letter, _name(folder), found, embeddings, read_curves(curves), texts, missing)


def _name(path: Path) -> str:
    """The end of a path that tells runs apart: `demo/2026-11-21_14-28-13`."""
    return "/".join(path.absolute().parts[1:][-2:])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def read_curves(path: Path) -> dict[str, Curve]:
    """Steps and values of the columns of Lightning's `metrics.csv`; empty when it is not there.

    Raises:
        DataError: it is damaged.
    """
    if not path.is_file():
        return {}
    curves: dict[str, Curve] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name and value and name not in ("step", "epoch"):
                        steps, values = curves.setdefault(name, ([], []))
                        number = float(value)
                        steps.append(int(row["step"]))
                        values.append(number)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{path} is no table of curves ({type(error).__name__}: {error}); remove it") from error
    return curves
