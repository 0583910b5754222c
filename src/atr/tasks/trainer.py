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
from atr.errors import UsageError
from atr.models.clap import Clap
from atr.models.compute import fast_cpu
from atr.pipeline.datamodule import AudioTextData
from atr.ranks import check_started
from atr.shards.forks import available_processors
from atr.tasks.averaging import WeightAverage
from atr.tasks.callbacks import StepProgress
from atr.tasks.curves import carry_on, curves_until
from atr.tasks.files import WholeFiles
from atr.tasks.resume import rewind
from atr.tasks.saving import KeepBest, SaveEverySteps, SaveWhenStopped
from atr.tasks.sharding import is_sharded
from atr.tasks.stopping import Interrupted


def build_trainer(cfg: DictConfig, run_dir: Path, resume: Path | None, *own: pl.Callback) -> pl.Trainer:
    """Lightning's trainer with the run's `own` callbacks, our bar, checkpoints, and always `metrics.csv`.

    The curves go on from those of the run that is resumed.
    """
    arguments: Any = OmegaConf.to_container(cfg.trainer)
    arguments["precision"] = arguments["precision"] or best_precision(arguments["accelerator"])
    if isinstance(arguments["strategy"], dict):  # a class of its own, as in trainer=fsdp2
        arguments["strategy"] = build(cfg.trainer.strategy)
    folder = run_dir / "checkpoints"
    callbacks: list[pl.Callback] = [
        *own,
        SaveWhenStopped(folder),
    ]
    if cfg.ema is not None:
        callbacks.append(WeightAverage(cfg.ema))
    if cfg.evaluation.monitor:  # before the last one, which then knows what is kept
        callbacks.append(KeepBest(folder, cfg.evaluation.monitor, cfg.checkpoint.keep_best))
    callbacks.append(
        ModelCheckpoint(folder, "last", enable_version_counter=False, every_n_epochs=cfg.checkpoint.every_n_epochs)
    )
    if cfg.checkpoint.every_n_steps is not None:
        callbacks.append(SaveEverySteps(folder, cfg.checkpoint.every_n_steps))
    if arguments["enable_progress_bar"]:
        callbacks.append(StepProgress())
    loggers: list[Logger] = [build(cfg.logger)]
    curves = loggers[0] if isinstance(loggers[0], CSVLogger) else CSVLogger(run_dir, name="", version="")
    if curves not in loggers:
        loggers.append(curves)  # the report's curves
    if resume is not None:
        carry_on(curves, curves_until(resume))
    trainer = pl.Trainer(
        **arguments, logger=loggers, callbacks=callbacks, use_distributed_sampler=False,
        default_root_dir=run_dir, plugins=[WholeFiles()],
    )  # fmt: skip
    check_started(trainer.num_devices, trainer.num_nodes)
    return trainer


def share_processors(trainer: pl.Trainer, num_workers: int) -> None:
    """On a CPU: as many threads as the loader's workers leave processors, as contended ones wait for each other."""
    if trainer.strategy.root_device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (available_processors() - num_workers) // trainer.num_devices))


def check_saving(cfg: DictConfig) -> None:
    """Refuses what is known to be wrong before any data is read.

    Raises:
        UsageError: naming the value.
    """
    steps, keep, monitor = cfg.checkpoint.every_n_steps, cfg.checkpoint.keep_best, cfg.evaluation.monitor
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise UsageError(f"checkpoint.every_n_steps is {steps!r}; allowed: null, or a whole number from 1 on")
    if not isinstance(keep, int) or keep < 1:
        raise UsageError(f"checkpoint.keep_best is {keep!r}; allowed: a whole number from 1 on")
    if monitor and not cfg.data.validation:
        raise UsageError(f"evaluation.monitor={monitor} needs a validation set: name one with data.validation=[…]")
    if monitor and not monitor.startswith("validation/"):
        raise UsageError(
            f"evaluation.monitor={monitor} is no number of the validation; e.g. validation/retrieval/t2a/mAP@10"
        )


def fit(trainer: pl.Trainer, task: pl.LightningModule, data: AudioTextData, folder: Path, resume: Path | None) -> None:
    """`trainer.fit`, then `last.ckpt` in `folder`.

    Raises:
        Interrupted: a signal came; the state is saved.
    """
    if resume is not None:  # FSDP2 loads a checkpoint when the loader is made already
        state = torch.load(resume, map_location="cpu", mmap=True, weights_only=True)
        data.resume_at = rewind(state)
    listener = next(one.listener for one in trainer.callbacks if isinstance(one, SaveWhenStopped))  # type: ignore[attr-defined]
    # Lightning's answer to SIGTERM is a broadcast within the handler, which meets other ranks in another collective.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    on_cpu = trainer.strategy.root_device.type == "cpu"
    with listener.listening(), fast_cpu() if on_cpu else nullcontext():
        trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
    if listener.received is not None:  # in the last step or after it; the evaluation is left to the run that goes on
        raise Interrupted(listener.received, folder / "last.ckpt", trainer.global_step)


def best_precision(accelerator: str) -> str:
    """`bf16-mixed` where the device computes in bf16, else `32-true`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def trained_model(trainer: pl.Trainer, model: Clap, folder: Path) -> Clap:
    """The best checkpoint's model by the monitored number, or the model as training left it."""
    best = [one.best for one in trainer.checkpoint_callbacks if isinstance(one, KeepBest)]
    if best and best[0]:
        return build_model(read_checkpoint(best[0]))
    return build_model(read_checkpoint(folder / "last.ckpt")) if is_sharded(model) else model
