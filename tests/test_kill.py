"""A run killed with SIGKILL goes on with the batches, losses and weights of a run that was not.

All of it is the real `train(cfg)` in processes of its own (`kill_child.py`), with augmentation, word masking, dropout
and SpecAugment on, 3 epochs of 8 steps. The whole process group is killed: ranks and loader workers.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atr import experiment
from atr.checkpoint import newest_checkpoint, read_checkpoint
from atr.config import compose_config
from atr.experiment import build_trainer, train
from atr.pipeline.dataset import TrainingDataset
from atr.shards.write import write_shards
from atr.tasks import contrastive
from tests import kill_child
from tests.conftest import TINY, make_clips
from tests.kill_child import PLACES, Record

STEPS_OF_EPOCH, STEPS = 8, 24
BATCH = 4
RANDOM_STEPS = np.random.default_rng(25).choice([2, 3, 4, 5, 6, 7, *range(10, STEPS)], 7, replace=False)
KILLED_AFTER = sorted([1, STEPS_OF_EPOCH, STEPS_OF_EPOCH + 1, *map(int, RANDOM_STEPS)])


class Runs:
    """Child runs of one series; the run folders lie side by side, as `resume=auto` wants them."""

    def __init__(self, folder: Path, shards: Path, ranks: int = 1, workers: int = 0) -> None:
        self.folder, self.shards, self.ranks, self.workers = folder, shards, ranks, workers
        folder.mkdir(parents=True)

    def overrides(self, name: str, *more: str) -> list[str]:
        return [
            *TINY, f"run_dir={self.folder / name}", f"data.train=[{self.shards}]", "data.test=[]",
            f"data.batch_size={BATCH}", f"data.num_workers={self.workers}", "trainer.max_epochs=3",
            "trainer.accelerator=cpu", f"trainer.devices={self.ranks}", "trainer.precision=32-true",
            "trainer.enable_progress_bar=false", "schedule.warmup_steps=2", "augment=paper", "masking=words",
            "checkpoint.every_n_steps=1", *more,
        ]  # fmt: skip

    def start(self, name: str, *more: str, park_after: int | None = None, park_writing: Any = None) -> "Ranks":
        given, record = self.folder / f"{name}.json", str(self.folder / name)
        values = {"overrides": self.overrides(name, *more), "record": record}
        given.write_text(json.dumps(values | {"park_after": park_after, "park_writing": park_writing}))
        return Ranks(given, self.folder / f"{name}.txt", self.ranks)

    def whole(self, name: str, *more: str) -> None:
        """Runs to the end."""
        with self.start(name, *more) as ranks:
            assert ranks.wait(300) == [0] * self.ranks, (self.folder / f"{name}.txt").read_text()[-3000:]

    def killed(self, name: str, *more: str, after: int | None = None, writing: tuple[int, str] | None = None) -> None:
        """Kills a run that waits between step `after` and the next, or while it is writing a step's checkpoint."""
        parked = [self.folder / f"{name}.{rank}.parked" for rank in range(self.ranks if after else 1)]
        with self.start(name, *more, park_after=after, park_writing=writing) as ranks:
            self.wait_until(ranks, name, lambda: all(path.exists() for path in parked))

    def wait_until(self, ranks: "Ranks", name: str, due: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not due():
            if ranks.wait(0) != [None] * self.ranks or time.monotonic() > deadline:
                ranks.kill(signal.SIGABRT)  # each process says where it hangs
                time.sleep(2)
                pytest.fail((self.folder / f"{name}.txt").read_text()[-20_000:])
            time.sleep(0.02)

    def lines(self, name: str, rank: int = 0) -> list[dict]:
        """What a rank wrote down, without a line that the kill cut off."""
        path = self.folder / f"{name}.{rank}.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def steps(self, name: str) -> list[int]:
        """The steps a run trained, in its order, each as often as it did; the same on all ranks."""
        ranks = [[line["step"] for line in self.lines(name, rank)] for rank in range(self.ranks)]
        assert all(steps == ranks[0] for steps in ranks)
        return ranks[0]

    def batches(self, name: str) -> dict[int, list[str]]:
        """Step -> the digests of its global batch, the ranks' parts in order."""
        parts = zip(*(self.lines(name, rank) for rank in range(self.ranks)), strict=True)
        return {part[0]["step"]: [digest for line in part for digest in line["samples"]] for part in parts}

    def losses(self, name: str) -> dict[int, list[str]]:
        parts = zip(*(self.lines(name, rank) for rank in range(self.ranks)), strict=True)
        return {part[0]["step"]: [line["loss"] for line in part] for part in parts}

    def state(self, name: str) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def free_port() -> int:
    """Below those that the system gives to connections: it is used seconds later only."""
    while True:
        port = int(np.random.default_rng().integers(15_000, 32_000))
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("", port))
            return port


class Ranks:
    """The processes of a run, each forked from one that has imported everything; all are killed in the end."""

    def __init__(self, given: Path, output: Path, ranks: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.kill_child", "librosa.core", "librosa.effects"])
        port = free_port()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")  # from the first one on, for all
            self.processes = [
                context.Process(target=kill_child.run, args=(str(given), str(output), rank, ranks, port))
                for rank in range(ranks)
            ]
            for process in self.processes:
                process.start()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(signal.SIGKILL)
        self.wait(60)

    def kill(self, number: int) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.killpg(process.pid, number)

    def wait(self, seconds: float) -> list[int | None]:
        """The exit statuses; None for a process that has not ended."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [process.exitcode for process in self.processes]


@pytest.fixture(scope="session")
def thirty_four_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight batches of four, and two clips left over."""
    folder = tmp_path_factory.mktemp("kill")
    write_shards(make_clips(folder / "sounds", STEPS_OF_EPOCH * BATCH + 2), folder / "shards", codec="flac")
    return folder / "shards"


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, thirty_four_clips: Path) -> Callable[[int], Runs]:
    """Number of ranks -> an uninterrupted run named `whole`, made once."""
    made: dict[int, Runs] = {}

    def run(ranks: int) -> Runs:
        if ranks not in made:
            folder = tmp_path_factory.mktemp("whole") / str(ranks)
            made[ranks] = Runs(folder, thirty_four_clips, ranks)
            made[ranks].whole("whole")
        return made[ranks]

    return run


def check_part(runs: Runs, name: str, first: int, last: int, uninterrupted: Callable[[int], Runs]) -> None:
    """A part trained exactly the steps first … last: the batches of one process, the losses of as many ranks."""
    assert runs.steps(name) == list(range(first, last + 1))
    batches, losses = uninterrupted(1).batches("whole"), uninterrupted(runs.ranks).losses("whole")
    for step, batch in runs.batches(name).items():
        assert batch == batches[step], f"the batch of step {step} differs"
    for step, loss in runs.losses(name).items():
        assert loss == losses[step], f"the loss of step {step} differs"


def check_end(runs: Runs, name: str, uninterrupted: Callable[[int], Runs]) -> None:
    expected, state = uninterrupted(runs.ranks).state("whole"), runs.state(name)
    assert expected.keys() == state.keys()
    assert [key for key in expected if not torch.equal(expected[key], state[key])] == []


@pytest.mark.parametrize(
    ("workers", "ranks", "after"), [pytest.param(2, 1, 13, marks=pytest.mark.slow), (0, 2, STEPS_OF_EPOCH)]
)
def test_a_killed_run_goes_on_exactly(workers, ranks, after, tmp_path, thirty_four_clips, uninterrupted):
    runs = Runs(tmp_path / "runs", thirty_four_clips, ranks, workers)
    runs.killed("first", after=after)
    check_part(runs, "first", 1, after, uninterrupted)
    runs.whole("second", "resume=auto")
    check_part(runs, "second", after + 1, STEPS, uninterrupted)
    check_end(runs, "second", uninterrupted)


def test_a_run_killed_at_any_moment_loses_at_most_so_many_steps(tmp_path, thirty_four_clips, uninterrupted):
    """Not parked: the kill comes when it comes, perhaps while a checkpoint is being written."""
    runs = Runs(tmp_path / "runs", thirty_four_clips, workers=2)
    settings = ["checkpoint.every_n_steps=3", "checkpoint.every_n_epochs=100"]
    with runs.start("first", *settings) as ranks:
        runs.wait_until(ranks, "first", lambda: len(runs.lines("first")) >= 11)
    killed_after = runs.steps("first")[-1]
    path = runs.folder / "first" / "checkpoints" / "last.ckpt"
    assert newest_checkpoint(runs.folder) == path
    saved = torch.load(path, weights_only=True)["global_step"]
    assert killed_after < STEPS and saved % 3 == 0 and 0 <= killed_after - saved <= 3
    runs.whole("second", *settings, "resume=auto")
    check_part(runs, "second", saved + 1, STEPS, uninterrupted)
    check_end(runs, "second", uninterrupted)


def test_a_run_killed_while_it_writes_goes_on_from_the_checkpoint_before(tmp_path, thirty_four_clips, uninterrupted):
    """Two kills of one run: in the middle of the bytes, and, going on, with all bytes there but not the names."""
    runs = Runs(tmp_path / "runs", thirty_four_clips)
    check_killed_while_writing(runs, [(6, "within"), (7, "before names")], uninterrupted)


@pytest.mark.parametrize(("who", "name"), [([1], "SIGTERM"), ([0, 1], "SIGINT")])
def test_ranks_stop_together_when_one_or_all_are_told_to(who, name, tmp_path, thirty_four_clips, uninterrupted):
    """Twice, as launchers do: one checkpoint, status 0 on all ranks, and nothing is lost."""
    runs = Runs(tmp_path / "runs", thirty_four_clips, ranks=2)
    settings = ["checkpoint.every_n_steps=null", "checkpoint.every_n_epochs=100"]
    with runs.start("first", *settings) as ranks:
        runs.wait_until(ranks, "first", lambda: len(runs.lines("first", who[-1])) >= 3)
        for rank in [*who, *who]:
            os.kill(ranks.processes[rank].pid or 0, getattr(signal, name))
        assert ranks.wait(60) == [0, 0]
    path = runs.folder / "first" / "checkpoints" / "last.ckpt"
    done = read_checkpoint(path).step
    assert 3 <= done < STEPS and list(path.parent.glob("*.ckpt")) == [path]
    said = (runs.folder / "first.txt").read_text()
    assert said.count(f"interrupted by {name} after step {done}; the state is in {path}") == 2  # each rank's
    assert "Traceback" not in said
    check_part(runs, "first", 1, done, uninterrupted)
    runs.whole("second", *settings, "resume=auto")
    check_part(runs, "second", done + 1, STEPS, uninterrupted)
    check_end(runs, "second", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_run_killed_while_it_writes_in_each_epoch_goes_on_exactly(place, tmp_path, thirty_four_clips, uninterrupted):
    """In mid-epoch, at the end of an epoch, in an epoch's first step, and in the last step."""
    runs = Runs(tmp_path / "runs", thirty_four_clips, workers=2)
    check_killed_while_writing(runs, [(step, place) for step in (3, 8, 9, 15, STEPS)], uninterrupted)


def check_killed_while_writing(runs: Runs, kills: list[tuple[int, str]], uninterrupted: Callable[[int], Runs]) -> None:
    done, resume = 0, []
    for step, place in kills:
        name = f"until{step}"
        runs.killed(name, *resume, writing=(step, place))
        check_part(runs, name, done + 1, step, uninterrupted)
        parts = list((runs.folder / name / "checkpoints").glob("*.part"))
        assert len(parts) == {"within": 1, "before names": 2, "between names": 1}[place]
        done, resume = step if place == "between names" else step - 1, ["resume=auto"]
        found = newest_checkpoint(runs.folder)
        assert found is not None and read_checkpoint(found).step == done
    runs.whole("last", *resume)
    check_part(runs, "last", done + 1, STEPS, uninterrupted)
    check_end(runs, "last", uninterrupted)
    assert list(runs.folder.glob("*/checkpoints/*.part")) == []  # nothing piles up


def test_ranks_form_the_same_global_batches_and_epochs_differ(uninterrupted):
    one, two = uninterrupted(1), uninterrupted(2)
    assert list(one.batches("whole")) == list(range(1, STEPS + 1))
    assert one.batches("whole") == two.batches("whole")
    assert all(len(line["samples"]) == BATCH // 2 for rank in (0, 1) for line in two.lines("whole", rank))
    epochs = [[line["clips"] for line in one.lines("whole") if line["epoch"] == epoch] for epoch in range(3)]
    assert [len(batches) for batches in epochs] == [STEPS_OF_EPOCH] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    for batches in epochs:
        assert len({clip for batch in batches for clip in batch}) == STEPS_OF_EPOCH * BATCH


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_a_run_killed_ten_times_goes_on_exactly_each_time(workers, ranks, tmp_path, thirty_four_clips, uninterrupted):
    """Each of the ten resumes is compared on its own, up to the next kill and, the last one, to the end."""
    runs = Runs(tmp_path / "runs", thirty_four_clips, ranks, workers)
    before, resume = 0, []
    for after in KILLED_AFTER:
        runs.killed(f"until{after}", *resume, after=after)
        check_part(runs, f"until{after}", before + 1, after, uninterrupted)
        before, resume = after, ["resume=auto"]
    runs.whole("last", *resume)
    check_part(runs, "last", before + 1, STEPS, uninterrupted)
    check_end(runs, "last", uninterrupted)


class Here:
    """Runs in this process, beside `Runs` for what has to be patched."""

    def __init__(self, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs, self.monkeypatch = runs, monkeypatch

    def train(self, name: str, *more: str) -> dict[int, list[str]]:
        def recorded(*arguments):
            trainer = build_trainer(*arguments)
            trainer.callbacks.append(Record(str(self.runs.folder / name), None))
            return trainer

        self.monkeypatch.setattr(experiment, "build_trainer", recorded)
        train(compose_config(self.runs.overrides(name, *more)))
        return self.runs.batches(name)


@pytest.fixture
def stopped(tmp_path, thirty_four_clips, monkeypatch) -> Iterator[Here]:
    """A run of 13 of its 24 steps named `first`."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    here = Here(Runs(tmp_path / "runs", thirty_four_clips), monkeypatch)
    assert len(here.train("first", "trainer.max_steps=13")) == 13
    yield here


def test_without_the_place_in_the_epoch_the_batches_would_differ(stopped, uninterrupted):
    """The control: what is compared above can differ."""
    expected = {step: batch for step, batch in uninterrupted(1).batches("whole").items() if step > 13}
    assert stopped.train("second", "resume=auto") == expected
    rewind = contrastive.rewind
    stopped.monkeypatch.setattr(contrastive, "rewind", lambda *arguments: rewind(*arguments) and None)
    path = stopped.runs.folder / "first" / "checkpoints" / "last.ckpt"
    wrong = stopped.train("third", f"resume={path}")
    assert wrong[14] != expected[14] and wrong[17] == expected[17]


def test_going_on_reads_nothing_that_was_trained(stopped):
    """With no workers, one batch of clips is read until the first batch is there."""
    read: list[int] = []
    until_first_batch: list[int] = []
    get, start = TrainingDataset.__getitem__, Record.on_train_batch_start

    def counting(self, draw):
        read.append(draw.number)
        return get(self, draw)

    def noting(self, *arguments):
        until_first_batch.append(len(read))
        start(self, *arguments)

    stopped.monkeypatch.setattr(TrainingDataset, "__getitem__", counting)
    stopped.monkeypatch.setattr(Record, "on_train_batch_start", noting)
    stopped.train("second", "resume=auto")
    assert until_first_batch[0] == BATCH and len(read) == (STEPS - 13) * BATCH
