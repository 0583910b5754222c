"""Signals: they arrive here as they do in a run, and the run that goes on ends as one that was not stopped."""

import csv
import os
import signal
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch

from atr import experiment
from atr.checkpoint import read_checkpoint
from atr.errors import UsageError
from atr.experiment import build_trainer, train
from atr.shards.write import write_shards
from atr.tasks import stopping
from atr.tasks.averaging import WeightAverage
from atr.tasks.saving import SaveWhenStopped
from atr.tasks.stopping import Interrupted, requeue
from tests.conftest import Compose, make_clips

MONITOR = "validation/retrieval/t2a/mAP@10"


class Noting(pl.Callback):
    """Writes down steps and validations, and sends this process a signal."""

    def __init__(self, place=None, step=0, number=signal.SIGTERM):
        self.place, self.step, self.number = place, step, number
        self.steps, self.validations, self.validated = [], [], 0

    def send(self, trainer, place):
        if place == self.place and trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)

    def on_fit_start(self, trainer, module):
        self.send(trainer, "fit_start")

    def on_train_batch_start(self, trainer, module, batch, index):
        self.send(trainer, "batch_start")  # too late for this batch

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.steps.append((trainer.global_step, batch.clip_id.tolist()))
        self.send(trainer, "batch_end")

    def on_validation_batch_end(self, trainer, module, outputs, batch, index, dataloader_idx=0):
        self.validated += 1
        if index == 0:
            self.send(trainer, "validation")

    def on_validation_end(self, trainer, module):
        self.validations.append(trainer.global_step)


class Runs:
    """Runs of 2 epochs of 4 steps, validating 2 batches after every second step, with folders side by side."""

    def __init__(self, shards, folder):
        write_shards(make_clips(folder / "few", 8), folder / "validation", codec="flac")
        self.tiny, self.folder, self.made = Compose(folder, shards), folder, {}

    def __call__(self, name, *more, note=None, average=False):
        """Trains; returns what was noted."""
        note = note or Noting()

        def noted(*arguments):
            trainer = build_trainer(*arguments)
            trainer.callbacks.append(note)
            return trainer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(experiment, "build_trainer", noted)
            patch.setenv("OMP_NUM_THREADS", "1")
            torch.set_num_threads(1)
            train(
                self.tiny(
                    f"run_dir={self.folder / name}", "data.test=[]", f"data.validation=[{self.folder / 'validation'}]",
                    "data.batch_size=4", "trainer.val_check_interval=2", "optimizer=adamw", "leaks.action=ignore",
                    "trainer.log_every_n_steps=1",
                    f"evaluation.monitor={MONITOR}", "checkpoint.keep_best=2",
                    f"ema={0.5 if average else 'null'}", *more,
                )
            )  # fmt: skip
        return note

    def whole(self, average=False):
        """A run that was not stopped, made once: its folder and what was noted."""
        if average not in self.made:
            self.made[average] = self.folder / f"whole{average}", self(f"whole{average}", average=average)
        return self.made[average]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_shards(make_clips(folder / "sounds", 16), folder / "shards", codec="flac")
    return Runs(folder / "shards", folder)


@pytest.fixture
def run(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "folder", tmp_path)
    (tmp_path / "validation").symlink_to(runs.tiny.run_dir / "validation")
    return runs


def state(run_dir, name="last"):
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def best_of(run_dir):
    return {path.name: read_checkpoint(path).step for path in (run_dir / "checkpoints").glob("best*.ckpt")}


def logged(run_dir, column):
    with (run_dir / "metrics.csv").open() as file:
        return [(row["step"], row[column]) for row in csv.DictReader(file) if row.get(column)]


def same(one, other):
    """Whether two checkpoints hold the same weights, averages and optimizer state."""
    keys = one["state_dict"].keys()
    averages = [content.get("current_model_state", content["state_dict"]) for content in (one, other)]
    moments = [content["optimizer_states"][0]["state"] for content in (one, other)]
    return (
        all(torch.equal(one["state_dict"][key], other["state_dict"][key]) for key in keys)
        and all(torch.equal(averages[0][key], averages[1][key]) for key in keys)
        and all(torch.equal(moments[0][n]["exp_avg"], moments[1][n]["exp_avg"]) for n in moments[0])
    )


@pytest.mark.parametrize(
    ("place", "step", "stopped_after", "average"),
    [("batch_end", 3, 3, False), ("batch_start", 4, 5, False), ("validation", 2, 2, False), ("validation", 4, 4, True)],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(run, tmp_path, place, step, stopped_after, average):
    """In mid-epoch, in an epoch's first batch, within a validation in mid-epoch, and at its end with averaged weights.

    With `batch_start` the signal comes after the question for one, so that its batch is trained.
    """
    where, whole = run.whole(average)
    note = Noting(place, step)
    path = tmp_path / "first" / "checkpoints" / "last.ckpt"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        run("first", note=note, average=average)
    assert str(stopped.value) == f"interrupted by SIGTERM after step {stopped_after}; the state is in {path}"
    assert signal.getsignal(signal.SIGTERM) == before
    assert read_checkpoint(path).step == stopped_after == len(note.steps)
    assert sorted(name.name for name in path.parent.glob("*.part")) == []
    if place == "validation":
        assert note.validated % 2 == 1  # the second batch was not waited for
    rest = run("rest", f"resume={path}", average=average)
    assert note.steps + rest.steps == whole.steps
    assert note.validations + rest.validations == whole.validations == [2, 4, 6, 8]
    assert same(state(where), state(tmp_path / "rest"))
    for column in ("train/loss", MONITOR):  # the curves are whole, too
        assert logged(tmp_path / "rest", column) == logged(where, column) != logged(tmp_path / "first", column)
    assert best_of(where) == best_of(tmp_path / "rest")
    assert same(state(where, "best"), state(tmp_path / "rest", "best"))


def test_curves_are_whole_where_a_run_goes_on_in_its_own_folder(run, tmp_path):
    where, _ = run.whole(False)
    with pytest.raises(Interrupted):
        run("run", note=Noting("batch_end", 3))
    run("run", f"resume={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}")
    assert logged(tmp_path / "run", "train/loss") == logged(where, "train/loss")


def test_without_the_due_validation_it_would_be_left_out(run, tmp_path, monkeypatch):
    """The control of the test above."""
    with pytest.raises(Interrupted):
        run("first", note=Noting("validation", 2))
    monkeypatch.setattr(SaveWhenStopped, "load_state_dict", lambda *arguments: None)
    assert run("rest", f"resume={tmp_path / 'first' / 'checkpoints' / 'last.ckpt'}").validations == [4, 6, 8]


def test_averaged_weights_are_not_taken_for_the_trained_ones(run, tmp_path, monkeypatch):
    """The control: saved within a validation as they stand there, the two are interchanged."""
    save = WeightAverage.on_save_checkpoint

    def as_they_stand(self, *arguments):
        swapped, self._swapped = self._swapped, False
        save(self, *arguments)
        self._swapped = swapped

    monkeypatch.setattr(WeightAverage, "on_save_checkpoint", as_they_stand)
    with pytest.raises(Interrupted):
        run("first", note=Noting("validation", 4), average=True)
    run("rest", f"resume={tmp_path / 'first' / 'checkpoints' / 'last.ckpt'}", average=True)
    assert not same(state(run.whole(average=True)[0]), state(tmp_path / "rest"))


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_before_the_first_step_nothing_is_written(run, tmp_path, number):
    with pytest.raises(Interrupted, match=f"interrupted by {number.name} before the first step; nothing was trained"):
        run("first", note=Noting("fit_start", 0, number))
    assert not list((tmp_path / "first").glob("checkpoints/*"))


def test_in_the_last_step_the_run_ends_without_its_evaluation(run, tmp_path):
    with pytest.raises(Interrupted, match=r"interrupted by SIGINT after step 8; the state is in .*last\.ckpt"):
        run("first", note=Noting("batch_end", 8, signal.SIGINT))
    assert run("rest", "resume=auto").steps == []


def test_an_error_within_a_validation_is_saved_to_go_on_with_it(run, tmp_path):
    class Failing(Noting):
        def on_validation_batch_end(self, trainer, module, outputs, batch, index, dataloader_idx=0):
            if trainer.global_step == 4:
                raise ValueError("broken")

    where, whole = run.whole()
    failing = Failing()
    with pytest.raises(ValueError, match="broken"):
        run("first", note=failing)
    rest = run("rest", f"resume={tmp_path / 'first' / 'checkpoints' / 'interrupted.ckpt'}")
    assert failing.steps + rest.steps == whole.steps and rest.validations == [4, 6, 8]
    assert same(state(where), state(tmp_path / "rest"))


def child(code):
    process = subprocess.Popen(
        [sys.executable, "-c", "import os, signal, time\nfrom atr.tasks.stopping import *\n" + code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


LISTEN = "import atr.tasks.stopping as s; s.AGAIN = 0.2; one = Listener()\nwith one.listening():\n"


@pytest.mark.parametrize(
    ("name", "wait", "status"), [("SIGINT", 0.5, -signal.SIGINT), ("SIGINT", 0, 0), ("SIGTERM", 0.5, 0)]
)
def test_the_second_ctrl_c_ends_at_once_and_a_repeated_signal_changes_nothing(name, wait, status):
    send = f"    os.kill(os.getpid(), signal.{name}); time.sleep({wait})\n"
    code, out, err = child(LISTEN + send + send + "    print('end', one.received == signal." + name + ", flush=True)\n")
    assert code == status and err == ""
    assert out == ("" if status else "end True\n")


def test_a_signal_that_the_process_ignores_stays_ignored():
    """As under nohup, or in the background of a script."""
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    send = "    os.kill(os.getpid(), signal.SIGINT); print(one.received)\n"
    assert child(ignore + LISTEN + send) == (0, "None\n", "")


def test_outside_of_training_the_first_signal_ends_and_the_next_are_ignored():
    code = (
        "try:\n    with stopping_at_once():\n        try:\n            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        finally:\n            os.kill(os.getpid(), signal.SIGTERM); print('cleaned up')\n"
        "except Stopped as stop:\n    print(stop.number)\n"
    )
    assert child(code) == (0, f"cleaned up\n{int(signal.SIGTERM)}\n", "")


def test_a_slurm_job_is_put_into_the_queue_again(tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        f"#!/bin/sh\necho $@ >> {tmp_path / 'asked'}\ntest $2 != 13 || {{ echo no such job >&2; exit 1; }}\n"
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert requeue() == "job 12 is in the queue again"
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    assert requeue() == "SLURM did not take job 13 back: no such job\n"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeue() == "job 7_3 is in the queue again"
    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 12", "requeue 13", "requeue 7_3"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint.keep_best=0", "checkpoint.keep_best is 0; allowed: a whole number from 1 on"),
        (f"evaluation.monitor={MONITOR}", f"evaluation.monitor={MONITOR} needs a validation set: name one with"),
    ],
)
def test_a_wrong_way_of_saving_is_refused_before_any_data_is_read(tiny, override, message):
    with pytest.raises(UsageError, match=message):
        train(tiny(override, "data.train=[nowhere]"))


def test_a_number_that_is_not_logged_is_refused_with_those_that_are(run, tmp_path):
    with pytest.raises(
        UsageError, match=r"retrieval/t2a is no number of the validation; there are: .*, validation/ret"
    ):
        run("first", "evaluation.monitor=validation/retrieval/t2a")
    assert read_checkpoint(tmp_path / "first" / "checkpoints" / "interrupted.ckpt").step == 2  # nothing is lost
    with pytest.raises(UsageError, match=r"monitor=train/loss is no number of the validation; e\.g\. validation/"):
        run("first", "evaluation.monitor=train/loss")
