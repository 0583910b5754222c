"""When a run is saved: every so many steps, when it is stopped, and when it is the best so far."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint

from atr.checkpoint import WEIGHTS, read_checkpoint
from atr.errors import CheckpointError, UsageError
from atr.tasks.files import PART
from atr.tasks.finite import NonFinite
from atr.tasks.stopping import Interrupted, Listener
from atr.types import Batch


class SaveEverySteps(Callback):
    """Writes `last.ckpt` every `steps` optimizer steps, so that a killed run loses no more.

    It is written when the next batch begins and not in Lightning's `ModelCheckpoint(every_n_train_steps)`, which
    comes before the step's validation; a run that goes on from there would leave that validation out.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.path, self.steps = folder / "last.ckpt", steps
        self._saved = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Saves once for a step, as several batches may make one."""
        if trainer.global_step % self.steps == 0 and trainer.global_step != self._saved:
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved = trainer.global_step


class SaveWhenStopped(Callback):
    """A signal writes `last.ckpt` before the next batch and raises `Interrupted`; an error writes `interrupted.ckpt`.

    With several devices all of them stop at the same batch, whichever got the signal. A validation that was not done
    is done first by the run that goes on. An error on one of several ranks is not saved: the others would be waited
    for in vain.
    """

    NAME = "interrupted.ckpt"

    def __init__(self, folder: Path) -> None:
        self.folder, self.listener = folder, Listener()
        self._began = self._validating = self._due = False
        self._fewest = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """The step before is done with its validation."""
        self._began = True
        self._stop_if_told(trainer)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Ranks may have different numbers of batches; they ask each other as long as all have one."""
        if self._validating and batch_idx < self._fewest:
            self._stop_if_told(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a checkpoint lacks this validation."""
        self._validating = not trainer.sanity_checking
        batches = torch.tensor(int(sum(trainer.num_val_batches)), device=trainer.strategy.root_device)
        self._fewest = int(trainer.strategy.reduce(batches, reduce_op="min"))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All clips are encoded."""
        self._validating = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Does the validation in which the run was stopped, as Lightning's training loop does it after a step."""
        if not self._due:
            return
        self._due = False
        loop = trainer.fit_loop.epoch_loop
        stepped, loop._batches_that_stepped = loop._batches_that_stepped, trainer.global_step - 1  # the log's step
        loop.val_loop.restarting = False  # all of it
        trainer.validating = True
        loop.val_loop.run()
        trainer.training = True
        loop._batches_that_stepped = stepped

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Saves all that resuming needs, when it is an error in training and not one of saving."""
        told = isinstance(exception, Interrupted | CheckpointError | NonFinite)  # their state is saved, or cannot be
        if self._began and trainer.global_step > 0 and trainer.world_size == 1 and not told:
            trainer.save_checkpoint(self.folder / self.NAME, weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        """Whether a validation was not done."""
        return {"validation_due": self._validating}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `on_train_start`."""
        self._due = state_dict["validation_due"]

    def _stop_if_told(self, trainer: pl.Trainer) -> None:
        number = int(self.listener.received or 0)
        if trainer.world_size > 1:
            told = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(told, reduce_op="max"))
        if number == 0:
            return
        step, path = trainer.global_step, None
        if step > 0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            path = self.folder / "last.ckpt"
            trainer.save_checkpoint(path, weights_only=False)
        raise Interrupted(number, path, step)


class KeepBest(Checkpoint):
    """Keeps the checkpoints of the best validations by a logged number.

    They are `best.ckpt`, then `best-step000120-0.4133.ckpt`, … by step and score. A run that goes on from a
    checkpoint goes on with the best ones up to it, too; they are linked into its folder.
    Where such a file is there no more, the search for the best forgets its score.

    Args:
        folder: of the checkpoints.
        monitor: the number's name; more is better. The first one with a score is before later ones with the same.
        keep: how many.
    """

    def __init__(self, folder: Path, monitor: str, keep: int) -> None:
        self.folder, self.monitor, self.keep = folder, monitor, keep
        self.kept: list[tuple[float, int]] = []  # score and step, the best one first
        self._from: Path | None = None  # where the run that this one goes on with kept them

    @property
    def best(self) -> Path | None:
        """The best checkpoint, if there was a validation."""
        return self.folder / "best.ckpt" if self.kept else None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves when the number is among the best.

        Raises:
            UsageError: there is no such number.
        """
        if trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._go_on(trainer)  # this may be a validation before the first step
        numbers = trainer.callback_metrics
        if self.monitor not in numbers:
            names = sorted(name for name in numbers if name.startswith("validation/") and "/recall/" not in name)
            raise UsageError(
                f"evaluation.monitor={self.monitor} is no number of the validation; there are: {', '.join(names)}"
            )
        score: float = trainer.strategy.broadcast(float(numbers[self.monitor]))
        place = sum(known >= score for known, _ in self.kept)
        if not score > float("-inf") or place >= self.keep:  # NaN is not above
            return
        before = self.kept
        self.kept = [*before[:place], (score, trainer.global_step), *before[place:]][: self.keep]
        if place == 0 and len(self.kept) > 1 and trainer.is_global_zero:
            self._link(self.folder / "best.ckpt", self._path(1))
        trainer.save_checkpoint(self._path(place), weights_only=False)
        for dropped in before[1:]:
            if dropped not in self.kept:
                trainer.strategy.remove_checkpoint(self._second(*dropped))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Brings the best ones of the run before into this folder, so that they are there if no better one comes."""
        self._go_on(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same for a run that has nothing left to train, whose training does not start."""
        self._go_on(trainer)

    def state_dict(self) -> dict[str, Any]:
        """What is kept, and where."""
        return {"monitor": self.monitor, "folder": str(self.folder.absolute()), "kept": list(self.kept)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Another number than the run before looked at makes a new search."""
        if state_dict["monitor"] == self.monitor:
            self.kept = [(float(score), int(step)) for score, step in state_dict["kept"]][: self.keep]
            self._from = Path(state_dict["folder"])

    def _go_on(self, trainer: pl.Trainer) -> None:
        if self._from is not None:
            self.kept = trainer.strategy.broadcast(self._bring() if trainer.is_global_zero else [])
            self._from = None

    def _bring(self) -> list[tuple[float, int]]:
        """Links the files of `kept` from the folder before; returns those that were found."""
        assert self._from is not None
        steps = dict(_steps(self._from))
        found: list[tuple[float, int]] = []
        for score, step in self.kept:
            if step in steps:
                self._link(steps[step], self._second(score, step) if found else self.folder / "best.ckpt")
                found.append((score, step))
            else:
                print(
                    f"{self.monitor} was {score:.4f} after step {step}, whose file is not under {self._from} any more"
                )
        return found

    def _path(self, place: int) -> Path:
        return self._second(*self.kept[place]) if place else self.folder / "best.ckpt"

    def _second(self, score: float, step: int) -> Path:
        return self.folder / f"best-step{step:06d}-{score:.4f}.ckpt"

    def _link(self, source: Path, target: Path) -> None:
        """A second name for a checkpoint and its weights; a copy where the file system has no links."""
        target.parent.mkdir(parents=True, exist_ok=True)
        for one, other in ((source, target), (source.with_suffix(WEIGHTS), target.with_suffix(WEIGHTS))):
            if not one.exists() or (other.exists() and one.samefile(other)):
                continue
            part = other.with_name(f"link{PART}")
            part.unlink(missing_ok=True)
            try:
                os.link(one, part)
            except OSError:
                shutil.copy2(one, part)  # with its time, by which resume=auto chooses
            part.replace(other)


def _steps(folder: Path) -> Iterator[tuple[int, Path]]:
    """The whole ones among a folder's best checkpoints, by their step."""
    for path in sorted(folder.glob("best*.ckpt"), reverse=True):
        with suppress(CheckpointError):
            yield read_checkpoint(path).step, path
