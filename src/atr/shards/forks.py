"""Runs tasks in forked processes, one each.

Fork, because torch is loaded already (a fresh interpreter takes a second and some hundred MB for each process), the
tasks need no copy, and a script needs no `__main__` guard. A task must therefore stay away from torch and the GPU,
whose threads do not survive a fork.
"""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Generic, TypeVar

from atr.errors import DataError

T = TypeVar("T")
Task = Callable[[Callable[[], None]], T]  # is handed what it calls after each step


def available_processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Running(Generic[T]):
    """A task in its process, and how many steps it has done."""

    number: int
    process: ForkProcess
    steps: int = 0


def run_forked(
    tasks: Sequence[Task[T]], workers: int, on_step: Callable[[], None], describe: Callable[[int, int], str]
) -> list[T]:
    """Runs the tasks, `workers` at once. Whatever stops it (Ctrl-C, an error of a task) ends all its processes at once.

    Args:
        tasks: results and errors must be picklable; a task's parent may be killed, and then its next step raises
            BrokenPipeError.
        workers: processes at a time.
        on_step: is called here after each step of any task.
        describe: (task, steps done) -> what the task was at, for the message when its process dies.

    Returns:
        The results in the order of the tasks.

    Raises:
        DataError: a process died. Other errors are those of the tasks.
    """
    results: dict[int, T] = {}
    running: dict[Connection, _Running[T]] = {}
    waiting = enumerate(tasks)
    try:
        while len(results) < len(tasks):
            for number, task in itertools.islice(waiting, workers - len(running)):
                _start(number, task, running)
            ready = wait(list(running))
            for pipe in [one for one in running if one in ready]:
                kind, value = _receive(pipe, running[pipe], describe)
                if kind == "step":
                    running[pipe].steps += 1
                    on_step()
                elif kind == "error":
                    raise value
                else:
                    results[running[pipe].number] = value
                    running.pop(pipe).process.join()
                    pipe.close()
    finally:
        for one in running.values():
            one.process.terminate()
        for pipe, one in running.items():
            one.process.join()
            pipe.close()
    return [results[number] for number in range(len(tasks))]


def _start(number: int, task: Task[T], running: dict[Connection, _Running[T]]) -> None:
    """Forks a process for a task. Ctrl-C waits until parent and child are ready for it."""
    context = multiprocessing.get_context("fork")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        pipe, end = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(end, [pipe, *running], task), daemon=True)
        process.start()
        end.close()
        running[pipe] = _Running(number, process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _receive(pipe: Connection, running: _Running[T], describe: Callable[[int, int], str]) -> tuple[str, Any]:
    """The next message of a process: ("step", None), ("error", what it raised) or ("result", what it returned)."""
    try:
        return pipe.recv()
    except EOFError:
        running.process.join()
        raise DataError(
            f"{describe(running.number, running.steps)}: its process ended with status {running.process.exitcode}; "
            "-9: perhaps out of memory, use fewer workers; -11: the file breaks the decoder, leave it out"
        ) from None


def _work(pipe: Connection, inherited: list[Connection], task: Task[Any]) -> None:
    """The child's side."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()  # so that a dead parent is noticed at the next step
    try:
        message = ("result", task(lambda: pipe.send(("step", None))))
    except BrokenPipeError:
        return
    except Exception as error:
        message = ("error", error)
    pipe.send(message)
