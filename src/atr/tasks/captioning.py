"""The captioning LightningModule: one step is hear, predict each word of a caption, log."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from atr.captioning import tensors_of
from atr.checkpoint import PREFIX
from atr.errors import CheckpointError, UsageError
from atr.models.captioner import Captioner
from atr.optim import Groups, WarmupCosine
from atr.tasks.resume import rewind
from atr.types import Batch


class CaptioningTask(pl.LightningModule):
    """Trains a `Captioner` to continue the prefix of a clip with its caption.

    Only what is trained is in the optimizer, in the average of the weights and in the checkpoints. The loss of a step
    is the mean over all tokens of the global batch, on however many devices.

    Args:
        model: the captioner.
        optimizer: called with the parameter groups: with weight decay, and without (vectors).
        schedule: called with the optimizer and the number of steps.
        seed: of the chance inside the language model; re-seeded at each step from (seed, step, rank).
        provenance: goes into each checkpoint as `checkpoint["atr"]`.
    """

    MADE = ("loss", "losses")  # of a clip, as messages call it and them

    def __init__(
        self,
        model: Captioner,
        optimizer: Callable[..., Optimizer],
        schedule: WarmupCosine,
        seed: int,
        provenance: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer, self.schedule = optimizer, schedule
        self.seed, self.provenance = seed, provenance
        self.trained = {f"{PREFIX}{name}" for name in tensors_of(model)[0]}
        self._sums = torch.zeros(2, dtype=torch.float64)  # of the validation: losses, tokens

    def configure_model(self) -> None:
        """Refuses to shard what is small.

        Raises:
            UsageError: the strategy shards.
        """
        if self.device_mesh is not None:
            raise UsageError("a captioner is not sharded, as little of it is trained; set trainer.strategy=ddp")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout depends on (seed, step, rank) only."""
        state = np.random.SeedSequence([self.seed, self.global_step, self.global_rank]).generate_state(1)
        torch.manual_seed(int(state[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the part of the global batch's loss that is this device's, times the number of devices."""
        losses = self.model.losses(heard(self.model, batch), batch.input_ids, batch.attention_mask).sum()
        sums = self.trainer.strategy.reduce(torch.stack([losses.detach(), batch.attention_mask.sum()]), reduce_op="sum")
        self.log("train/loss", sums[0] / sums[1], prog_bar=True, batch_size=len(batch.samples))
        return losses * self.trainer.world_size / sums[1]  # DistributedDataParallel takes the mean over the devices

    @torch.no_grad()
    def finite(self, batch: Batch, rows: slice) -> Tensor:
        """Whether the loss of each of some pairs of a batch is a number: bool `(rows,)`."""
        features = heard(self.model, batch)[rows]
        return self.model.losses(features, batch.input_ids[rows], batch.attention_mask[rows]).isfinite()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds up the losses of all captions of a batch's clips."""
        self._sums += sum_losses(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the mean over all tokens of the set in nats, and the same as a likelihood, of which more is better."""
        sums = self.trainer.strategy.reduce(self._sums.float().to(self.device), reduce_op="sum")
        self._sums = torch.zeros(2, dtype=torch.float64)
        loss = float(sums[0] / sums[1])
        self.log_dict({"validation/loss": loss, "validation/log_likelihood": -loss})

    def configure_optimizers(self) -> Any:
        """The optimizer over the parameter groups, its schedule stepping with it."""
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UsageError("the schedule needs an end: set trainer.max_epochs or trainer.max_steps")
        optimizer = self.optimizer(self.groups())
        schedule = self.schedule(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups: with weight decay, and without."""
        return Groups()(self.model, nn.Module())

    def state_dict(self, *arguments: Any, **named: Any) -> Any:
        """What is trained, and nothing else."""
        whole = super().state_dict(*arguments, **named)
        return {name: value for name, value in whole.items() if name in self.trained}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads what is trained, all of it.

        Raises:
            CheckpointError: a tensor is missing or left over.
        """
        if odd := state_dict.keys() ^ self.trained:
            raise CheckpointError(
                f"the checkpoint is of a run that trained other parts: {len(odd)} tensors do not fit "
                f"(first: {min(odd)}); choose its captioner/mapping and captioner/language_model"
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Tells the data, and the trainer, how far the interrupted epoch was trained."""
        self.trainer.datamodule.resume_at = rewind(checkpoint)  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what is needed to use the weights without this run, but for what is frozen (`atr.frozen`)."""
        checkpoint["atr"] = self.provenance


def heard(model: Captioner, batch: Batch) -> Tensor:
    """The features of a batch's clips, stored ones where it has them."""
    return model.features(batch.waveform) if batch.features is None else batch.features


@torch.no_grad()
def sum_losses(model: Captioner, batch: Batch) -> Tensor:
    """The sum of the losses of all captions of an evaluation batch, and their tokens: float64 `(2,)` on the CPU."""
    sums = torch.zeros(2, dtype=torch.float64)
    if not batch.samples:
        return sums
    features, size = heard(model, batch), len(batch.samples)  # as many captions at once as in training
    clip_of_caption = torch.tensor([row for row, sample in enumerate(batch.samples) for _ in sample.captions])
    for first in range(0, len(clip_of_caption), size):
        rows = slice(first, first + size)
        clips, mask = clip_of_caption[rows].to(features.device), batch.attention_mask[rows]
        losses = model.losses(features[clips], batch.input_ids[rows], mask)
        sums += torch.stack([losses.sum(), mask.sum()]).cpu().double()
    return sums
