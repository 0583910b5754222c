"""A checkpoint written anywhere in Lightning's loops is gone on with from its last step, and is whole or not there."""

import csv

import pytest
import pytorch_lightning as pl
import torch

from atr import experiment
from atr.config import compose_config
from atr.errors import CheckpointError, UsageError
from atr.experiment import build_trainer, train
from atr.shards.write import write_shards
from tests.conftest import make_clips

PLACES = ["batch_start", "batch_end", "validation_start", "validation_end", "epoch_end"]


class Note(pl.Callback):
    """Writes down the clips of each step, and, where it has a folder, a checkpoint in every hook."""

    def __init__(self, folder=None):
        self.folder = folder
        self.steps, self.validations = [], []

    def save(self, trainer, place):
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}_{place}.ckpt")

    def on_train_batch_start(self, trainer, module, batch, index):
        epoch = trainer.fit_loop.epoch_progress.current.processed
        self.steps.append((trainer.global_step, epoch, index, batch.clip_id.tolist()))
        self.save(trainer, "batch_start")

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.save(trainer, "batch_end")

    def on_validation_start(self, trainer, module):
        self.save(trainer, "validation_start")

    def on_validation_end(self, trainer, module):
        self.validations.append(trainer.global_step)
        self.save(trainer, "validation_end")

    def on_train_epoch_end(self, trainer, module):
        self.save(trainer, "epoch_end")


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """Trains 3 epochs of 4 steps, validating after every second step; returns what was noted."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # else the loader's workers would change the number of threads
    torch.set_num_threads(1)
    write_shards(make_clips(tmp_path / "few", 4), tmp_path / "validation", codec="flac")

    def run(name, *more, folder=None):
        note = Note(folder)

        def noted(*arguments):
            trainer = build_trainer(*arguments)
            trainer.callbacks.insert(0, note)
            return trainer

        monkeypatch.setattr(experiment, "build_trainer", noted)
        train(
            tiny(
                f"run_dir={tmp_path / name}", "data.test=[]", f"data.validation=[{tmp_path / 'validation'}]",
                "data.batch_size=4", "trainer.max_epochs=3", "trainer.val_check_interval=2", "masking=words",
                "trainer.log_every_n_steps=1", "optimizer=adamw", *more,
            )
        )  # fmt: skip
        return note

    return run


def weights(run_dir):
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def logged(run_dir):
    with (run_dir / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("workers", [0, 1])
def test_wherever_it_was_written_the_rest_is_trained(run, tmp_path, workers):
    """The last batch of an epoch in flight, an epoch's first one, within a validation, …"""
    (tmp_path / "saved").mkdir()
    whole = run("whole", folder=tmp_path / "saved")
    assert whole.validations == [2, 4, 6, 8, 10, 12] and len(whole.steps) == 12
    end = weights(tmp_path / "whole")
    paths = [tmp_path / "saved" / f"{step}_{place}.ckpt" for step in range(3, 9) for place in PLACES]
    paths = [path for path in paths if path.exists()]
    assert len(paths) == 6 + 6 + 3 + 3 + 2
    for path in paths if workers == 0 else paths[::5]:
        step = int(path.name.partition("_")[0])
        name = f"rest_{path.stem}"
        rest = run(name, f"resume={path}", f"data.num_workers={workers}")
        assert rest.steps == whole.steps[step:], path.name
        assert logged(tmp_path / name) == list(range(step, 12)), path.name
        state = weights(tmp_path / name)
        assert all(torch.equal(end[key], state[key]) for key in end), path.name
        assert rest.validations == [s for s in whole.validations if s > step], path.name


def test_a_run_that_max_steps_ended_goes_on_within_its_epoch(run):
    whole = run("whole")
    run("first", "trainer.max_steps=6")
    rest = run("second", "resume=auto")
    assert rest.steps == whole.steps[6:]


def test_a_finished_run_can_be_resumed_twice(run, capsys):
    whole = run("whole", "trainer.max_epochs=4")
    run("first", "trainer.max_epochs=2")
    assert run("second", "resume=auto", "trainer.max_epochs=2").steps == []
    assert "resume: " not in capsys.readouterr().out
    clipped = run("third", "resume=auto", "trainer.max_epochs=4", "trainer.gradient_clip_val=1e9")
    assert clipped.steps == whole.steps[8:]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resume: ")]
    assert said == [
        "resume: trainer.gradient_clip_val is 1000000000.0 from here on, it was None",
        "resume: trainer.max_epochs is 4 from here on, it was 2",
    ]


def test_a_run_in_parts_is_gone_on_with_in_the_same_parts(run, tmp_path):
    settings = ["micro_batch=3", "checkpoint.every_n_steps=1"]
    (tmp_path / "saved").mkdir()
    whole = run("whole", *settings, folder=tmp_path / "saved")
    path = tmp_path / "saved" / "7_batch_start.ckpt"
    rest = run("rest", *settings, f"resume={path}")
    assert rest.steps == whole.steps[7:]
    end, state = weights(tmp_path / "whole"), weights(tmp_path / "rest")
    assert all(torch.equal(end[key], state[key]) for key in end)
    assert int(end["model.audio.mel_norm.num_batches_tracked"]) == 2 * 12
    with pytest.raises(CheckpointError, match=r"other values of micro_batch;"):
        run("other", f"resume={path}", "micro_batch=2")


def test_last_is_written_every_so_many_steps(run, tmp_path):
    """Before the next batch begins, with the validation of the step done."""

    found: list[tuple[int, int]] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            path = tmp_path / "some" / "checkpoints" / "last.ckpt"
            if path.exists():
                content = torch.load(path, weights_only=True)
                found.append((trainer.global_step, content["global_step"]))

    original = build_trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.tasks.test_resume.build_trainer", lambda *a: added(original(*a), Look()))
        run("some", "checkpoint.every_n_steps=3", "checkpoint.every_n_epochs=100")
    assert found == [(step, (step - 1) // 3 * 3) for step in range(4, 13)]


def added(trainer, callback):
    trainer.callbacks.append(callback)
    return trainer


@pytest.mark.parametrize("value", ["0", "-1", "0.5", "often"])
def test_a_number_of_steps_that_is_none_is_refused(tiny, value):
    with pytest.raises(UsageError, match=r"checkpoint.every_n_steps is .*; allowed: null, or a whole number from 1 on"):
        train(tiny(f"checkpoint.every_n_steps={value}"))
    assert compose_config().checkpoint.every_n_steps is None
