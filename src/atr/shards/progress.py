"""The bar of what goes through shards clip by clip."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

REFRESH_EVERY = 0.1  # s


@contextlib.contextmanager
def clip_bar(total: int | None, show: bool, what: str = "clips") -> Iterator[Callable[[], None]]:
    """Yields what is to be called after each clip (or what else); `total` None where nobody knows.

    No thread draws the bar: a process with threads should not fork.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(what), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=console, auto_refresh=False, disable=not (show and console.is_terminal),
    )  # fmt: skip
    task = bar.add_task("clips", total=total, speed="")
    began = drawn = time.monotonic()
    done = 0

    def on_clip() -> None:
        nonlocal drawn, done
        now, done = time.monotonic(), done + 1
        if now - drawn >= REFRESH_EVERY or done == total:
            drawn = now
            bar.update(task, completed=done, speed=f"{done / (now - began):.0f} {what}/s", refresh=True)

    with bar:
        yield on_clip
