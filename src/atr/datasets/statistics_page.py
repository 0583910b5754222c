"""Statistics of corpora on the screen, and as one self-contained HTML page."""

import base64
import contextlib
import os
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table
from rich.text import Text

import atr
from atr.datasets.statistics import MOST_FREQUENT, Statistics
from atr.errors import DataError
from atr.evaluation.pictures import draw
from atr.types import BadSample

COLUMNS = ("clips", "hours", "captions", "captions per clip", "mean words", "vocabulary", "environment", "mean s")
BINS = 60  # of a histogram
_BLUE = "#1f5fa8"


def cells(statistics: Statistics) -> list[str]:
    """A row of the table, in the order of `COLUMNS`."""
    n = statistics.numbers()
    forms = {
        "clips": "{:,}", "hours": "{:,.2f}", "captions": "{:,}", "captions_per_clip": "{:.2f}",
        "mean_words": "{:.1f}", "vocabulary": "{:,}", "environment": "{:.1%}", "mean_seconds": "{:.1f}",
    }  # fmt: skip
    return ["–" if n[name] is None else form.format(n[name]) for name, form in forms.items()]


def remarks(statistics: Mapping[str, Statistics]) -> list[str]:
    """What the numbers do not cover."""
    lines = []
    for place, one in statistics.items():
        n = one.numbers()
        if n["without_caption"]:
            lines.append(f"{place}: {n['without_caption']:,} of {one.clips:,} clips have no caption")
        if n["without_duration"]:
            lines.append(f"{place}: the duration of {n['without_duration']:,} of {one.clips:,} clips is not known")
    return lines


def print_statistics(statistics: Mapping[str, Statistics], bad: Mapping[str, list[BadSample]]) -> None:
    """Tables with a column for each place, three beside each other, and what could not be read."""
    console, places = Console(), list(statistics)
    for some in (places[first : first + 3] for first in range(0, len(places), 3)):
        table = Table("")
        for place in some:
            table.add_column(Text(place), justify="right", overflow="fold")
        for row in zip(COLUMNS, *(cells(statistics[place]) for place in some), strict=True):
            table.add_row(*row)
        console.print(table)
    for line in [*remarks(statistics), *bad_lines(bad)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def bad_lines(bad: Mapping[str, list[BadSample]]) -> list[str]:
    """The bad entries of each place: how many, and the first ones by name."""
    from atr.pipeline.ledger import list_bad

    return [f"{place}: {len(ones)} entries cannot be read:\n{list_bad(ones)}" for place, ones in bad.items() if ones]


def write_page(folder: Path, statistics: Mapping[str, Statistics], bad: Mapping[str, list[BadSample]]) -> Path:
    """Writes `folder/index.html`, whole or not at all; the pictures are inside it.

    Raises:
        DataError: it cannot be stored.
    """
    environment = Environment(
        loader=PackageLoader("atr.datasets", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("statistics.html.j2").render(
        version=atr.__version__,
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        columns=COLUMNS,
        rows=[(place, cells(one)) for place, one in statistics.items()],
        corpora=[(place, _pictures(one)) for place, one in statistics.items()],
        remarks=[*remarks(statistics), *bad_lines(bad)],
    )
    path = folder / "index.html"
    temporary = folder / f".index.html.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: the page cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def _pictures(one: Statistics) -> list[tuple[str, str]]:
    """What is drawn of a corpus: its name, and the PNG as a data URI."""
    drawn = []
    if one.durations:
        drawn.append(("durations", _histogram(one.durations, "duration in s", "clips")))
    if one.lengths:
        drawn.append(("caption lengths", _histogram(one.lengths, "words of a caption", "captions")))
    if one.words:
        drawn.append(("most frequent words", _most_frequent(one.words)))
    return [(name, f"data:image/png;base64,{base64.b64encode(png).decode()}") for name, png in drawn]


def _histogram(counts: Counter[int], what: str, of: str) -> bytes:
    """Bars from 0 to the 99.5th percentile; the last one holds the rest."""
    values = np.array(sorted(counts))
    weights = np.array([counts[int(value)] for value in values])
    above = np.searchsorted(np.cumsum(weights), 0.995 * weights.sum())
    last = int(values[min(int(above), len(values) - 1)])
    width = last // BINS + 1
    edges = np.arange(0, last + width + 1, width)
    heights, _ = np.histogram(np.minimum(values, last), bins=edges, weights=weights)

    def paint(figure: Figure, axes: Axes) -> None:
        axes.bar(edges[:-1], heights, width=0.92 * width, align="edge", color=_BLUE)
        axes.set_xlabel(what if last == values[-1] else f"{what} (last bar: {last} and more)")
        axes.set_ylabel(of)
        axes.grid(alpha=0.3, axis="y")

    return draw(4.7, 2.9, paint)


def _most_frequent(words: Counter[str]) -> bytes:
    common = words.most_common(MOST_FREQUENT)
    names = [word if len(word) <= 24 else word[:23] + "…" for word, _ in common]

    def paint(figure: Figure, axes: Axes) -> None:
        axes.barh(range(len(common)), [count for _, count in common], color=_BLUE)
        axes.set_yticks(range(len(common)), [name.replace("$", r"\$") for name in names], fontsize=7)
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"times, of {words.total():,} words")
        axes.grid(alpha=0.3, axis="x")

    return draw(4.7, 5.0, paint)
