"""What a person sees during training, and the count of bad clips."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.callbacks import ProgressBar as LightningProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from atr.pipeline.ledger import Ledger
from atr.types import Batch

LINE_EVERY = 10.0  # s, where the output is no terminal
REFRESH_EVERY = 0.25  # s, on a terminal


class StepProgress(LightningProgressBar):
    """One bar over all steps: loss, clips/s, time left. A line every ten seconds where there is no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True

    def disable(self) -> None:
        """Lightning calls it on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar."""
        self._console = Console()
        self.total = int(trainer.estimated_stepping_batches)
        self._began = self._spoke = time.monotonic()
        self._first, self._clips = trainer.global_step, 0
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=self._console, disable=not (self._enabled and self._console.is_terminal),
        )  # fmt: skip
        self._task = self._bar.add_task("train", total=self.total, completed=trainer.global_step, numbers="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Moves the bar and logs clips/s."""
        now, step = time.monotonic(), trainer.global_step
        self._clips += len(batch.samples) * trainer.world_size
        speed = self._clips / (now - self._began)
        pl_module.log("train/clips_per_s", torch.tensor(speed), batch_size=1)  # a mere number would wait for the device
        due = LINE_EVERY if self._bar.disable else REFRESH_EVERY
        if not self._enabled or (now - self._spoke < due and step < self.total):
            return  # reading the loss waits for the device, so it is not read at every step
        self._spoke = now
        numbers = f"loss {float(outputs['loss']):.3f}  {speed:.0f} clips/s"
        self._bar.update(self._task, completed=step, numbers=numbers)
        if self._bar.disable:
            taken = now - self._began
            left = taken / max(1, step - self._first) * (self.total - step)
            print(f"step {step}/{self.total}  {numbers}  {taken:.0f} s, {left:.0f} s left", flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar."""
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Gives the terminal back."""
        if hasattr(self, "_bar"):
            self._bar.stop()


class CountBad(Callback):
    """Enters each batch into its set's `Ledger` before the step, so that nothing is trained beyond the limit."""

    def __init__(self, training: Ledger, validation: Ledger) -> None:
        self.training, self.validation = training, validation

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Counts."""
        self.training.add(batch)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts."""
        self.validation.add(batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """With several devices: all get to know what each one met, and stop together if it is too much."""
        if trainer.world_size == 1:
            return
        mine = (self.training, self.validation)
        everyone: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(everyone, mine)
        for number, ledger in enumerate(mine):
            ledger.merge([theirs[number] for rank, theirs in enumerate(everyone) if rank != trainer.global_rank])
            ledger.check()
