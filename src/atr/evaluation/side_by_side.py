"""The numbers of several runs beside each other: rows of tables, with the differences to the first run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from atr.errors import DataError
from atr.evaluation.bootstrap import Measured
from atr.evaluation.compare import Difference, Key, by_task, changed_fields, differences
from atr.evaluation.record import POOLED, Protocol, Result
from atr.evaluation.runs import Run

HEADLINES = (  # what stands in a tile
    "accuracy", "mAP", "t2a/R@10", "a2t/R@10", "t2a/mAP@10", "spider", "cider_d", "names_label",
)  # fmt: skip
DIRECTIONS = {"t2a/": "text → audio", "a2t/": "audio → text", "t2a_multi/": "text → audio, several relevant"}
TILES = 2  # of a task on a set


@dataclass(frozen=True)
class Row:
    """A number of each run.

    Attributes:
        cells: None where a run has no such number. differences: each run's to the first; None for the first itself.
    """

    metric: str
    cells: list[Measured | None]
    differences: list[Difference | None]

    @property
    def n(self) -> list[int]:
        """What the numbers are over; one value where all runs agree."""
        return sorted({one.n for one in self.cells if one})


@dataclass
class Table:
    """A task on a set.

    Attributes:
        results: of each run; None where it has none.
        rows: by fold.
        changed: for each run the fields of the protocol in which it differs from the first one that has this result.
        remarks: why something is not compared.
    """

    task: str
    dataset: str
    results: list[Result | None]
    rows: dict[str, list[Row]]
    changed: list[list[str]]
    remarks: list[str] = field(default_factory=list)

    @property
    def pooled(self) -> list[Row]:
        """The numbers over all clips."""
        return self.rows.get(POOLED, [])

    @property
    def folds(self) -> dict[str, list[Row]]:
        """The numbers of parts of the set."""
        return {fold: rows for fold, rows in self.rows.items() if fold != POOLED}

    @property
    def headlines(self) -> list[Row]:
        """The one or two numbers that stand for the others."""
        named = [row for name in HEADLINES for row in self.pooled if row.metric == name]
        return (named or self.pooled[:1])[:TILES]


def tables(runs: Sequence[Run]) -> list[Table]:
    """A table for each task on each set that a run was measured on, in the order in which they are found."""
    keyed = [by_task(run.results) for run in runs]
    keys: dict[Key, None] = dict.fromkeys(key for one in keyed for key in one)
    return [_table(key, [one.get(key) for one in keyed], [run.letter for run in runs]) for key in keys]


def _table(key: Key, results: list[Result | None], letters: Sequence[str]) -> Table:
    first = next(number for number, one in enumerate(results) if one is not None)
    base = results[first]
    assert base is not None
    table = Table(key[0], key[1], results, {}, [[] if one is None else _changed(base, one) for one in results])
    if first:
        table.remarks.append(f"{', '.join(letters[:first])} has no such result: differences are to {letters[first]}")
    compared: list[dict[tuple[str, str], Difference]] = []
    for number, one in enumerate(results):
        compared.append({})
        if one is None or number == first:
            continue
        try:
            compared[-1] = {(found.fold, found.metric): found for found in differences(base, one)}
        except DataError as error:
            table.remarks.append(f"{letters[number]} is not compared with {letters[first]}: {error}")
    for fold in _distinct(fold for one in results if one for fold in one.rows):
        numbers = [{m.metric: m for m in one.rows.get(fold, ())} if one else {} for one in results]
        table.rows[fold] = [
            Row(metric, [one.get(metric) for one in numbers], [one.get((fold, metric)) for one in compared])
            for metric in _distinct(metric for one in numbers for metric in one)
        ]
    return table


def _changed(base: Result, one: Result) -> list[str]:
    return [name.replace("_sha256", "").replace("_", " ") for name in changed_fields(base.protocol, one.protocol)]


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Direction:
    """The numbers of one direction of retrieval in one run, in the order of the columns."""

    run: Run
    direction: str
    values: list[float | None]


@dataclass(frozen=True)
class Retrieval:
    """Retrieval as papers print it: a row for each direction of each run."""

    columns: list[str]
    rows: list[Direction]


def retrieval_rows(table: Table, runs: Sequence[Run]) -> Retrieval:
    """The numbers of a table whose names begin with `t2a/` or `a2t/`, over all clips."""
    named = {row.metric: row for row in table.pooled}
    columns = _distinct(name.split("/", 1)[1] for name in named if name.startswith(tuple(DIRECTIONS)))
    rows = []
    for number, run in enumerate(runs):
        for prefix, direction in DIRECTIONS.items():
            cells = [named[prefix + name].cells[number] if prefix + name in named else None for name in columns]
            if any(cells):
                rows.append(Direction(run, direction, [one.value if one else None for one in cells]))
    return Retrieval(columns, rows)


@dataclass(frozen=True)
class Line:
    """A field of the protocol: its value in each run, and whether the runs agree."""

    name: str
    values: list[str]
    same: bool


def protocol_lines(table: Table) -> list[Line]:
    """All that the numbers of a table depend on."""
    protocols = [one.protocol if one else None for one in table.results]
    lines = []
    for one in fields(Protocol):
        if one.name in ("task", "dataset"):
            continue
        values = [_plain(getattr(protocol, one.name)) if protocol else "–" for protocol in protocols]
        there = {value for value, protocol in zip(values, protocols, strict=True) if protocol}
        lines.append(Line(one.name.replace("_", " "), values, len(there) == 1))
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_plain(one)}".replace("\n", "\n  ") for name, one in value.items()) or "–"
    if isinstance(value, list | tuple):
        return "\n".join(str(one) for one in value) or "–"
    return "–" if value is None or value == "" else str(value)


def exceeding(found: Sequence[Table]) -> tuple[int, int]:
    """How many of the differences over all clips exceed the noise, and how many there are."""
    all_of = [one for table in found for row in table.pooled for one in row.differences if one is not None]
    return sum(one.exceeds_noise for one in all_of), len(all_of)
