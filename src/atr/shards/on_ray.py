"""Runs tasks on Ray Data: `atr prepare … --backend ray`. Files must lie where all its machines see them."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from atr.errors import UsageError


def run_on_ray(
    tasks: Sequence[Callable[[], None]], workers: int | None, on_clip: Callable[[], object], clips: Sequence[int]
) -> None:
    """Runs each task once, anywhere in the cluster.

    Args:
        tasks: picklable.
        workers: tasks at a time; None for as many as the cluster has processors.
        on_clip: is called for each clip of a task that is done.
        clips: of each task.

    Raises:
        UsageError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(f'backend ray needs Ray ({error}): pip install "atr[ray]"') from error
    if not tasks:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

        def run(row: dict[str, Any]) -> dict[str, Any]:
            tasks[row["item"]]()
            return row

        # One task in a block: blocks are what Ray Data hands out.
        numbers = ray.data.from_items(list(range(len(tasks))), override_num_blocks=len(tasks))
        pool = ray.data.TaskPoolStrategy(size=workers)
        for row in numbers.map(run, num_cpus=1, compute=pool).iter_rows():
            for _ in range(clips[row["item"]]):
                on_clip()
    finally:
        if started:
            ray.shutdown()
