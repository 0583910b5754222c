"""Results as tables on the screen."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from atr.evaluation.bootstrap import Measured
from atr.evaluation.record import POOLED, Result

SHORT = 12  # digits of a hash
DIRECTIONS = {"t2a": "text → audio", "a2t": "audio → text", "t2a_multi": "text → audio, several relevant"}
PLACES = ("median_rank", "mean_rank")


def print_results(results: Sequence[Result]) -> None:
    """The numbers with their 95 % intervals, and what they depend on."""
    console = Console()
    for result in results:
        if result.protocol.task == "retrieval":
            _retrieval(console, result)
        elif result.protocol.task == "captioning":
            _captioning(console, result)
        elif list(result.rows) == [POOLED]:
            _line(console, result)
        else:
            _folds(console, result)
        for line in [*about(result), *result.remarks]:
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def interval(one: Measured, digits: int = 3) -> str:
    """Value and 95 % interval."""
    return f"{one.value:.{digits}f} ({one.low:.{digits}f}–{one.high:.{digits}f})"


def about(result: Result) -> list[str]:
    """The protocol in short."""
    protocol, settings = result.protocol, result.protocol.settings
    lines = [
        f"  {protocol.dataset}: {protocol.clips} clips, manifest {protocol.manifest_sha256[:SHORT]}, "
        f"weights {protocol.checkpoint_sha256[:SHORT]}"
    ]
    if protocol.windows:
        lines[0] += f", windows {protocol.windows}"
    if protocol.templates:
        prompts = " · ".join(map(repr, protocol.templates))
        lines.append(f"  {settings['labels']} labels, chance {settings['chance']:.3f}, prompt {prompts}")
    return lines


def _retrieval(console: Console, result: Result) -> None:
    numbers = {one.metric: one for one in result.rows[POOLED]}
    directions = [name for name in DIRECTIONS if f"{name}/R@1" in numbers]
    metrics = list(dict.fromkeys(name.partition("/")[2] for name in numbers))
    console.print(f"retrieval   {result.protocol.dataset}", highlight=False, markup=False)
    table = Table("", *(DIRECTIONS[name] for name in directions))
    for metric in metrics:
        cells = [
            interval(numbers[f"{name}/{metric}"], 1 if metric in PLACES else 3) if f"{name}/{metric}" in numbers else ""
            for name in directions
        ]
        table.add_row(metric.replace("_", " "), *cells)
    counts = [
        f"{result.protocol.settings[f'{name}/queries']} for {result.protocol.settings[f'{name}/candidates']}"
        for name in directions
    ]
    table.add_row("queries for candidates", *counts)
    console.print(table)


def _captioning(console: Console, result: Result) -> None:
    console.print(f"captioning  {result.protocol.dataset}", highlight=False, markup=False)
    table = Table("", "value", "95 % interval", "n")
    for one in result.rows[POOLED]:
        digits = 0 if one.metric == "vocabulary" else 3
        bounds = f"{one.low:.{digits}f}–{one.high:.{digits}f}"
        table.add_row(one.metric, f"{one.value:.{digits}f}", bounds, str(one.n))
    console.print(table)


def _line(console: Console, result: Result) -> None:
    numbers = ", ".join(f"{one.metric} {interval(one)}" for one in result.rows[POOLED])
    console.print(f"{result.protocol.task:<11} {numbers}", highlight=False, markup=False, soft_wrap=True)


def _folds(console: Console, result: Result) -> None:
    metrics = list(dict.fromkeys(one.metric for measured in result.rows.values() for one in measured))
    console.print(f"{result.protocol.task:<11} {result.protocol.dataset}", highlight=False, markup=False)
    table = Table("", *metrics, "n")
    for fold, measured in result.rows.items():
        numbers = {one.metric: one for one in measured}
        cells = [interval(numbers[name]) if name in numbers else "" for name in metrics]
        table.add_row(escape(fold), *cells, str(max((one.n for one in measured), default=0)))
    console.print(table)
