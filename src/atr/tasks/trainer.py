"""Lightning's trainer for a run: its callbacks and loggers, its precision, and how a fit ends."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger

from atr.checkpoint import build_model, read_checkpoint
from atr.config import build
from atr.errors import AtrError, UsageError
from atr.models.clap import Clap
from atr.models.compute import fast_cpu
from atr.pipeline.datamodule import AudioTextData
from atr.shards.forks import available_processors
from atr.tasks.callbacks import CountBad, SaveEverySteps, SaveWhenStopped, StepProgress
from atr.tasks.contrastive import ContrastiveTask
from atr.tasks.resume import WholeFiles


class Interrupted(AtrError):
    """Ctrl-C: training stopped, and `path` holds its state."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"interrupted; the state is in {path}")
        self.path = path


def build_trainer(cfg: DictConfig, run_dir: Path, count_bad: CountBad) -> pl.Trainer:
    """Lightning's trainer with our bar, count of bad clips, checkpoints, and always `metrics.csv`."""
    arguments: Any = OmegaConf.to_container(cfg.trainer)
    on_gpu = arguments["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    arguments["sync_batchnorm"] = arguments["sync_batchnorm"] and on_gpu  # SyncBatchNorm refuses a CPU
    arguments["precision"] = arguments["precision"] or best_precision(arguments["accelerator"])
    folder = run_dir / "checkpoints"
    callbacks: list[pl.Callback] = [
        count_bad,
        SaveWhenStopped(folder),
        ModelCheckpoint(folder, "last", enable_version_counter=False, every_n_epochs=cfg.checkpoint.every_n_epochs),
    ]
    if (steps := cfg.checkpoint.every_n_steps) is not None:
        if not isinstance(steps, int) or steps < 1:
            raise UsageError(f"checkpoint.every_n_steps is {steps!r}; allowed: null, or a whole number from 1 on")
        callbacks.append(SaveEverySteps(folder, steps))
    if arguments["enable_progress_bar"]:
        callbacks.append(StepProgress())
    if cfg.evaluation.monitor:
        best = ModelCheckpoint(folder, "best", cfg.evaluation.monitor, mode="max", enable_version_counter=False)
        callbacks.append(best)
    loggers: list[Logger] = [build(cfg.logger)]
    if not isinstance(loggers[0], CSVLogger):
        loggers.append(CSVLogger(run_dir, name="", version=""))  # the report's curves
    return pl.Trainer(
        **arguments, logger=loggers, callbacks=callbacks, use_distributed_sampler=False,
        default_root_dir=run_dir, plugins=[WholeFiles()],
    )  # fmt: skip


def share_processors(trainer: pl.Trainer, num_workers: int) -> None:
    """On a CPU: as many threads as the loader's workers leave processors, as contended ones wait for each other."""
    if trainer.strategy.root_device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (available_processors() - num_workers) // trainer.world_size))


def fit(trainer: pl.Trainer, task: ContrastiveTask, data: AudioTextData, folder: Path, resume: Path | None) -> None:
    """`trainer.fit`, then `last.ckpt` in `folder`; Ctrl-C becomes `Interrupted`."""
    on_cpu = trainer.strategy.root_device.type == "cpu"
    try:
        with fast_cpu() if on_cpu else nullcontext():
            trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C
        if (path := folder / SaveWhenStopped.NAME).exists():
            raise Interrupted(path) from stop
        raise AtrError("interrupted before the first step; nothing was trained") from stop
    trainer.save_checkpoint(folder / "last.ckpt")


def best_precision(accelerator: str) -> str:
    """`bf16-mixed` where the device computes in bf16, else `32-true`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def trained_model(trainer: pl.Trainer, model: Clap) -> Clap:
    """The best checkpoint's model by the monitored number, or the model as training left it."""
    paths = [c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]
    return build_model(read_checkpoint(paths[0])) if paths and paths[0] else model
