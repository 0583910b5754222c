"""A short run with a callback that writes down its weights, for the tests of freezing and averaging."""

import pytorch_lightning as pl
import torch

from atr import experiment
from atr.experiment import train
from atr.shards.write import write_shards
from atr.tasks.trainer import build_trainer
from tests.conftest import make_clips

PLACES = ["batch_start", "batch_end", "validation_start", "validation_end", "epoch_end"]


class Record(pl.Callback):
    """The module's tensors at the start and after each step; with a folder, a checkpoint in every hook.

    It stands before all other callbacks, so that their hooks come later.
    """

    def __init__(self, folder=None):
        self.folder = folder
        self.states, self.modes, self.moments, self.begins = [], [], [], []

    def save(self, trainer, place):
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}_{place}.ckpt")

    def on_train_start(self, trainer, module):
        self.states.append(copied(module))
        self.names = {id(p): name for name, p in module.named_parameters()}

    def on_train_batch_start(self, trainer, module, batch, index):
        self.begins.append((trainer.global_step, copied(module)))
        self.save(trainer, "batch_start")

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.states.append(copied(module))
        self.modes.append({name: child.training for name, child in module.model.named_children()})
        self.moments.append({self.names[id(p)] for p in trainer.optimizers[0].state})
        self.save(trainer, "batch_end")

    def on_validation_start(self, trainer, module):
        self.save(trainer, "validation_start")

    def on_validation_end(self, trainer, module):
        self.save(trainer, "validation_end")

    def on_train_epoch_end(self, trainer, module):
        self.save(trainer, "epoch_end")


def copied(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


class Runs:
    """Trains 3 epochs of 2 steps of the tiny model."""

    def __init__(self, tiny, tmp_path, monkeypatch):
        self.tiny, self.tmp_path, self.monkeypatch = tiny, tmp_path, monkeypatch
        self.records = []
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two threads wait for each other on a busy machine
        torch.set_num_threads(1)
        write_shards(make_clips(tmp_path / "few", 4), tmp_path / "validation", codec="flac")

    def __call__(self, name, *overrides, folder=None, callbacks=()):
        record = Record(folder)
        self.records.append(record)

        def recorded(*arguments):
            trainer = build_trainer(*arguments)
            trainer.callbacks[:0] = [record, *callbacks]
            return trainer

        self.monkeypatch.setattr(experiment, "build_trainer", recorded)
        cfg = self.tiny(
            f"run_dir={self.tmp_path / name}", "data.test=[]", "trainer.max_epochs=3", "optimizer=adamw",
            "optimizer.lr=1e-2", "trainer.enable_progress_bar=false", *overrides,
        )  # fmt: skip
        train(cfg)
        return record
