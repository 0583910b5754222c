"""Results as tables on the screen."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from atr.evaluation.bootstrap import Measured
from atr.evaluation.record import POOLED, Result

SHORT = 12  # digits of a hash
DIRECTIONS = (("t2a", "text → audio"), ("a2t", "audio → text"))
RECALLS = ("R@1", "R@5", "R@10", "R@50", "mAP@10")


def print_results(results: Sequence[Result]) -> None:
    """The numbers, and what they depend on."""
    console = Console()
    for result in results:
        if result.protocol.task == "retrieval":
            _retrieval(console, result)
        else:
            _others(console, result)
        about = result.protocol
        lines = [
            f"{about.clips} clips of {about.dataset} (manifest {about.manifest_sha256[:SHORT]}), "
            f"windows {about.windows}, weights {about.checkpoint_sha256[:SHORT]}"
        ]
        if about.templates:
            lines.append("prompt " + " · ".join(map(repr, about.templates)))
        for line in [*lines, *result.remarks]:
            console.print(line, highlight=False, markup=False, style="dim" if line in lines else "")


def interval(one: Measured, digits: int = 3) -> str:
    """Value and 95 % interval."""
    return f"{one.value:.{digits}f} ({one.low:.{digits}f}–{one.high:.{digits}f})"


def _retrieval(console: Console, result: Result) -> None:
    numbers = {one.metric: one for one in result.rows[POOLED]}
    table = Table(title=f"retrieval   {result.protocol.dataset}", title_justify="left")
    for column in ("", *RECALLS, "median rank"):
        table.add_column(column, justify="left" if not column else "right")
    for name, title in DIRECTIONS:
        cells = [interval(numbers[f"{name}/{key}"]) for key in RECALLS if f"{name}/{key}" in numbers]
        candidates = result.protocol.settings[f"{name}/candidates"]
        table.add_row(title, *cells, f"{numbers[f'{name}/median_rank'].value:.0f} of {candidates}")
    console.print(table)


def _others(console: Console, result: Result) -> None:
    table = Table(title=f"{result.protocol.task}   {result.protocol.dataset}", title_justify="left")
    metrics = list(dict.fromkeys(one.metric for measured in result.rows.values() for one in measured))
    for column in ("", *metrics, "n"):
        table.add_column(column, justify="left" if not column else "right")
    for fold, measured in result.rows.items():
        numbers = {one.metric: one for one in measured}
        cells = [interval(numbers[name]) if name in numbers else "" for name in metrics]
        table.add_row(fold, *cells, str(max((one.n for one in measured), default=0)))
    console.print(table)
