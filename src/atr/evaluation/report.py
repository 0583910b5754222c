"""Runs as one self-contained HTML page: numbers beside each other, curves, pictures, and sound to listen to."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

import atr
from atr.collection import whole_file
from atr.errors import DataError
from atr.evaluation import pictures
from atr.evaluation.classified import EXTREMES
from atr.evaluation.listen import SECONDS
from atr.evaluation.runs import Run, read_runs
from atr.evaluation.section import make_section, uri
from atr.evaluation.side_by_side import exceeding, protocol_lines, tables
from atr.pipeline.text import label_text

PLAYERS = 12  # clips in a list
PAGE_PLAYERS = 160  # clips on a page, about 13 MB of sound; with many sets the lists are shorter
FEWEST = 2  # clips in a list
ROWS = 24  # numbers of a table that are not folded away
CURVES = (
    ("train/loss", "training loss"),
    ("train/logit_scale", "logit scale (1 / temperature)"),
    ("validation/retrieval/t2a/mAP@10", "validation, text → audio mAP@10"),
    ("lr-", "learning rate"),
)


def write_report(runs: Sequence[Path], out: Path, progress: bool = True) -> Path:
    """Writes a page about runs, whole or not at all; it fetches nothing from anywhere.

    Args:
        runs: folders of training runs or of `atr eval … --out`, or files of results; differences are to the first.
        out: the page; its folder is made.
        progress: shows a bar on a terminal (stderr).

    Returns:
        `out`.

    Raises:
        UsageError: no runs, or too many for a page.
        DataError: a run is none or damaged, or the page cannot be written.
    """
    found = read_runs(runs)
    rows = tables(found)
    names = list(dict.fromkeys(one.dataset for one in rows))
    most = list_length(len(names))
    sections = [make_section(name, [t for t in rows if t.dataset == name], found, most, progress) for name in names]
    environment = Environment(
        loader=PackageLoader("atr.evaluation", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "signed": signed, "words": label_text}
    page = environment.get_template("report.html.j2").render(
        version=atr.__version__,
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        runs=found,
        colours=dict(zip((run.letter for run in found), pictures.RUN_COLOURS, strict=False)),
        tables=rows,
        shown_rows=ROWS,
        extremes=EXTREMES,
        seconds=SECONDS,
        exceeding=exceeding(rows),
        protocols=protocol_lines,
        curves=curves(found),
        sections=sections,
        settings=different_settings(found),
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: its folder cannot be made ({error.strerror or error})") from error
    with whole_file(out) as part:
        part.write_text(page, encoding="utf-8")
    return out


def list_length(sets: int) -> int:
    """How many clips each of a set's two lists shows, on a page about so many sets."""
    return max(FEWEST, min(PLAYERS, PAGE_PLAYERS // (2 * max(1, sets))))


def number(value: float) -> str:
    """A metric as the page shows it."""
    return f"{value:,.{_digits(value)}f}"


def signed(value: float) -> str:
    """A difference of metrics."""
    return f"{value:+,.{_digits(value)}f}"


def _digits(value: float) -> int:
    """Behind the point: shares need three, ranks and scores fewer."""
    return 3 if abs(value) <= 1 else 2 if abs(value) < 10 else 1


def curves(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Title and picture of each curve that a run has."""
    colours = {run.letter: colour for run, colour in zip(runs, pictures.RUN_COLOURS, strict=False) if run.curves}
    drawn = []
    for prefix, title in CURVES:
        lines = {}
        for run in runs:
            names = [
                name for name in run.curves if name == prefix or (prefix.endswith("-") and name.startswith(prefix))
            ]
            if names:
                lines[run.letter] = run.curves[names[0]]
        if lines:
            drawn.append((title, uri(pictures.curves(lines, colours, title))))
    return drawn


def different_settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The settings in which the configurations of several runs differ, and their value in each run.

    Raises:
        DataError: a configuration is damaged.
    """
    flat = [_settings(run) for run in runs] if len(runs) > 1 else []
    names = dict.fromkeys(name for one in flat for name in one)
    rows = [(name, [one.get(name, "–") for one in flat]) for name in names if name != "run_dir"]
    return [(name, values) for name, values in rows if len({v for v, one in zip(values, flat, strict=True) if one}) > 1]


def _settings(run: Run) -> dict[str, str]:
    try:
        return _flat(yaml.safe_load(run.texts["config.yaml"])) if "config.yaml" in run.texts else {}
    except yaml.YAMLError as error:
        raise DataError(f"{run.path}/config.yaml is no YAML ({error}); remove it or copy it again") from error


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        inner = (_flat(one, f"{name}.{key}" if name else str(key)) for key, one in value.items())
        return {key: one for part in inner for key, one in part.items()}
    return {name: str(value)}
