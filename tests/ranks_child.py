"""Runs the real `train(cfg)`, several times; started by torchrun from `tasks/test_sharding.py`, which compares numbers.

Argument: a json, a list of runs, the last of which is `scale_gradient`'s: `overrides`; `record`, a path for the losses
of the steps, each the mean of the ranks' own; `keep`, a step before which the state is saved to `record` + .ckpt;
`alone`: a control in which each rank compares its own rows only. The mel norm's statistics are frozen, because they
would be those of a rank's own clips.
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from atr import experiment
from atr.config import build, compose_config
from atr.launch import quiet
from atr.tasks.sharding import shard
from atr.types import Batch


class Watch(pl.Callback):
    """Freezes the mel norm, writes down the losses, saves the state once."""

    def __init__(self, record: Path, keep: int | None, alone: bool) -> None:
        self.record, self.keep, self.alone, self.losses = record, keep, alone, list[float]()

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if self.alone:
            loss = type(module.loss).forward
            with_one = mock.patch.object(dist, "is_initialized", return_value=False)
            module.loss.forward = lambda *both: with_one(lambda *_: loss(module.loss, *both))()

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Batch, index: int) -> None:
        module.model.audio.mel_norm.eval()
        if trainer.global_step == self.keep:
            trainer.save_checkpoint(self.record.with_suffix(".ckpt"))

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, index: int) -> None:
        loss = outputs["loss"].detach().clone()
        if dist.is_initialized():
            dist.all_reduce(loss)
        self.losses.append(loss.item() / trainer.world_size)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            self.record.write_text(json.dumps(self.losses))


def run(overrides: list[str], record: str, keep: int | None = None, alone: bool = False) -> None:
    build_trainer = experiment.build_trainer

    def watched(*arguments: Any) -> pl.Trainer:
        trainer = build_trainer(*arguments)
        trainer.callbacks.insert(0, Watch(Path(record), keep, alone))
        return trainer

    with mock.patch.object(experiment, "build_trainer", watched):
        experiment.train(compose_config(overrides))


def scale_gradient(overrides: list[str], record: str) -> None:
    """Writes down the gradient of the logit scale where rank r's own is r + 1."""
    cfg = compose_config(overrides)
    model, loss = build(cfg.model), build(cfg.loss)
    shard(model, loss, init_device_mesh("cpu", (dist.get_world_size(),)))
    (loss.logit_scale * (dist.get_rank() + 1)).backward()
    Path(f"{record}.{dist.get_rank()}").write_text(str(loss.logit_scale.grad.item()))


if __name__ == "__main__":
    quiet()
    *plans, last = json.loads(Path(sys.argv[1]).read_text())
    for plan in plans:
        run(**plan)
    scale_gradient(**last)
