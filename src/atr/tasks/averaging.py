"""An exponential moving average of the weights."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch.optim.swa_utils import get_ema_multi_avg_fn

from atr.errors import UsageError

CURRENT = "current_model_state"  # as Lightning's own callback calls it


class WeightAverage(Callback):
    """After each optimizer step, average = decay * average + (1 - decay) * weights; it starts as the initial weights.

    The average is in the model during validation and after the fit, and in each checkpoint's `state_dict`; the
    weights that training goes on with are in its `current_model_state`, wherever it is written. Buffers are not
    averaged: running statistics are averages already, and counts are integers. All ranks average the same weights.

    Lightning's `WeightAveraging` takes the average out of the model before the module's `on_validation_epoch_end`,
    where captions are encoded and scored, loses the current weights at the end of a fit, and counts a step only after
    other callbacks could have saved it. So torch's formula alone is used.

    Args:
        decay: between 0 and 1.

    Raises:
        UsageError: another decay; or, when a fit begins, weights that are sharded or not in float32.
    """

    def __init__(self, decay: float) -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay < 1:
            raise UsageError(f"ema is {decay!r}; allowed: null, or a decay between 0 and 1, e.g. 0.999")
        self.decay = decay
        self._average = get_ema_multi_avg_fn(decay)
        self._weights: list[torch.nn.Parameter] = []
        self._others: list[torch.Tensor] = []  # the averages; while those are in the model, the current weights
        self._swapped = False
        self._step = 0  # the last optimizer step that is in the average

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copies the initial weights; before a checkpoint is loaded."""
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise UsageError(
                f"ema={self.decay} averages whole weights, and {type(trainer.strategy).__name__} keeps a part of them "
                "on each device; set ema=null, or trainer.strategy=ddp"
            )
        self._weights = [p for p in pl_module.parameters() if p.requires_grad]
        self._others = [p.detach().clone() for p in self._weights]
        self._swapped, self._step = False, 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follows the weights to the device."""
        if low := {p.dtype for p in self._weights} - {torch.float32, torch.float64}:
            raise UsageError(
                f"ema={self.decay} needs weights in float32, as small steps are lost in {low.pop()}; set "
                "trainer.precision=bf16-mixed, or ema=null"
            )
        self._others = [a.to(p.device) for a, p in zip(self._others, self._weights, strict=True)]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes a step in."""
        self._take_step(trainer)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validates the average."""
        self._swap()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Goes on with the current weights. Not in `on_validation_epoch_end`: the module scores after that."""
        self._swap()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the average in the model; also when there was nothing left to train."""
        self._swap()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Makes the average the checkpoint's model and adds the current weights."""
        self._take_step(trainer)  # saved between the step and `on_train_batch_end`
        outside = {id(p): other for p, other in zip(self._weights, self._others, strict=True)}
        inside = checkpoint["state_dict"]
        own = pl_module.state_dict(keep_vars=True)
        others = {name: outside.get(id(own[name]), value) for name, value in inside.items()}
        checkpoint["state_dict"], checkpoint[CURRENT] = (inside, others) if self._swapped else (others, inside)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes the average from the model, into which the checkpoint's was loaded, and loads the current weights."""
        self._others = [p.detach().clone() for p in self._weights]
        self._step = checkpoint["global_step"]
        pl_module.load_state_dict(checkpoint[CURRENT])

    def _take_step(self, trainer: pl.Trainer) -> None:
        """Updates the average once for a step."""
        if trainer.global_step > self._step and not self._swapped:
            self._average(self._others, [p.detach() for p in self._weights], 0)
            self._step = trainer.global_step

    def _swap(self) -> None:
        """Exchanges what is in the model and what is not."""
        for parameter, other in zip(self._weights, self._others, strict=True):
            inside = parameter.detach().clone()
            parameter.detach().copy_(other)
            other.copy_(inside)
        self._swapped = not self._swapped
