"""Signals: a run that is told to stop saves its state, says how to go on, and exits with 0."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from atr.errors import AtrError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # clusters and pre-emption, Ctrl-C, SLURM before time is up
AGAIN = 1.0  # s; one Ctrl-C may arrive twice, from the terminal and from a launcher


class Interrupted(AtrError):
    """A signal stopped the run; `path` holds its state, or is None where nothing was trained."""

    def __init__(self, number: int, path: Path | None, step: int | None = None) -> None:
        name = signal.Signals(number).name
        where = f"the state is in {path}" if path else "nothing was trained"
        when = "" if step is None else f" after step {step}" if step else " before the first step"
        super().__init__(f"interrupted by {name}{when}; {where}")
        self.number, self.path = number, path


class Stopped(KeyboardInterrupt):
    """A signal outside of training, where there is nothing to save."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Listener:
    """While it listens, a signal is only noted in `received`; training asks for it between two batches.

    The second Ctrl-C ends the process at once. Other signals are noted once more: launchers repeat them, and a cluster
    that waits no longer sends SIGKILL.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over, and gives them back in the end."""
        with _handled_by(self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == number and time.monotonic() - self._since > AGAIN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self.received is None:
            self.received, self._since = number, time.monotonic()


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Outside of training: a signal raises `Stopped`; those that follow are ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, lambda *_: None)
        raise Stopped(number)

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals that the process was started to ignore stay ignored; other threads than the main one get none."""
    main = threading.current_thread() is threading.main_thread()
    before = {one: signal.getsignal(one) for one in SIGNALS} if main else {}
    before = {one: known for one, known in before.items() if known not in (signal.SIG_IGN, None)}
    for one in before:
        signal.signal(one, handler)
    try:
        yield
    finally:
        for one, known in before.items():
            signal.signal(one, known)


def requeue() -> str:
    """Puts this SLURM job into the queue again, as its time is nearly up; returns what came of it."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"SLURM did not take job {job} back: {getattr(error, 'stderr', '') or error}"
    return f"job {job} is in the queue again"
