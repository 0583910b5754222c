"""Is the first loss what chance gives, and does it leave it? A wrong setting shows there before anything else."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from atr.errors import UsageError
from atr.gather import gather, place
from atr.losses import Sameness, ids_of, same_pairs
from atr.pipeline.audio import INT16_PEAK
from atr.types import Batch

ROWS_AT_ONCE = 256  # of the comparison of ids: 16 MB where the global batch has 65 536 clips
SILENT = 1e-4  # of full scale; no microphone is as quiet


def candidates_left(batch: Batch, exclude: Sequence[Sameness]) -> Tensor:
    """Captions of the global batch that each clip is compared with, its own included: float32 `(B,)`.

    As many clips for a caption: two that share a property share it in both directions.
    """
    ids = ids_of(batch, exclude)
    of_all, own = gather(ids.T).T, place()[0] * ids.shape[1]
    same = [
        same_pairs(part, of_all, own + number * ROWS_AT_ONCE).sum(dim=1)
        for number, part in enumerate(ids.split(ROWS_AT_ONCE, dim=1))
    ]
    return (of_all.shape[1] - torch.cat(same)).float()


def chance(loss: nn.Module, left: Tensor) -> float:
    """The loss of towers that know nothing, where all cosines are alike.

    InfoNCE: the mean of ln(candidates left). Sigmoid, at cosine 0: softplus(-bias) for the own pair and
    softplus(bias) for each other one.
    """
    if (bias := getattr(loss, "logit_bias", None)) is None:
        return float(left.log().mean())
    return float((F.softplus(-bias.detach()) + (left - 1) * F.softplus(bias.detach())).mean())


def constant_guess(loss: nn.Module, left: Tensor) -> float:
    """The lowest loss of towers whose embeddings do not depend on their input: what a run that is stuck comes down to.

    InfoNCE: as at chance. Sigmoid: each pair has the probability 1 / n of being one, so that n pairs have
    ln(n) + (n - 1) ln(n / (n - 1)). Scale and bias find it within a few steps, from 10 down to about ln(n) + 1.
    """
    if not hasattr(loss, "logit_bias"):
        return chance(loss, left)
    return float((left.log() + (left - 1) * -torch.log1p(-1 / left.clamp_min(2))).mean())


class CompareWithChance(Callback):
    """Warns when the first loss is not what chance gives, and when the loss does not leave it.

    Args:
        initial_loss: allowed share of chance between the first loss and it.
        stuck_steps: after so many steps from the end of the warm-up on, the mean of the second half of them is
            looked at; None: never.
        stuck_loss: share of the loss of a constant guess that it must be below it by then.
        fresh: are the projections random? With weights from `init` a lower first loss is as it should be.
        warmup_steps: of the schedule.

    Attributes:
        remarks: what was said, for the report.
    """

    def __init__(
        self, initial_loss: float, stuck_steps: int | None, stuck_loss: float, fresh: bool, warmup_steps: int = 0
    ) -> None:
        for name, value in (("initial_loss", initial_loss), ("stuck_loss", stuck_loss)):
            if not isinstance(value, int | float) or not value > 0:
                raise UsageError(f"watch.{name} is {value!r}; allowed: a share above 0, e.g. 0.5")
        if stuck_steps is not None and (not isinstance(stuck_steps, int) or stuck_steps < 1):
            raise UsageError(f"watch.stuck_steps is {stuck_steps!r}; allowed: null, or a whole number from 1 on")
        self.initial_loss, self.stuck_loss, self.fresh = initial_loss, stuck_loss, fresh
        self.last = None if stuck_steps is None else warmup_steps + stuck_steps
        self.first = 0 if self.last is None or stuck_steps is None else self.last - stuck_steps // 2
        self.remarks: list[str] = []
        self._left: Tensor | None = None
        self._losses: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Counts the candidates of the first batch."""
        if self._left is None:
            loss: Any = pl_module.loss
            self._left = candidates_left(batch, loss.exclude)
            self._chance = of_ranks(chance(loss, self._left), trainer)
            self._guess = of_ranks(constant_guess(loss, self._left), trainer)
            self._found = (
                f"{float(self._left.mean()):.1f} of {len(gather(batch.clip_id))} candidates are left for a clip, "
                f"loss.exclude=[{','.join(loss.exclude)}]"
            )
            self._scale = float(loss.logit_scale.detach().exp())
            self._begins = trainer.global_step == 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Looks at the first loss, and later at the mean of many; between them the loss is not read."""
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        if self._begins:
            self._begins = False
            self._look_at_first(of_ranks(float(loss), trainer), trainer, pl_module, batch)
        if self.last is None or not self.first < trainer.global_step <= self.last:
            return
        self._losses.append(loss)
        if trainer.global_step == self.last:
            self.last = None
            losses = torch.stack(self._losses)
            mean = of_ranks(float(losses[losses.isfinite()].mean()), trainer)
            if mean > self._guess * (1 - self.stuck_loss):
                self._say(trainer, self._stuck(mean, trainer, pl_module, batch))

    def _look_at_first(self, loss: float, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> None:
        assert self._left is not None
        if of_ranks(float(self._left.mean()), trainer) < 2:
            self._say(
                trainer,
                f"the loss has almost nothing to compare: {self._found}. Leave a property out of loss.exclude, take a "
                "larger data.batch_size, or look whether all clips have the same captions or labels",
            )
            return
        seen = (
            f"the first loss is {loss:.3f}, chance is {self._chance:.3f} ({self._found}; logit scale {self._scale:.1f})"
        )
        if loss > self._chance * (1 + self.initial_loss):
            causes = ["a scale too high for towers that know nothing (loss.temperature, usually 0.07; loss.scale)"]
            if not self.fresh:
                causes.append("init was trained on other sounds or texts, at another sample rate, or with another mel")
            causes.append("towers whose embeddings differ widely from the start (their initial weights)")
        elif self.fresh and loss < self._chance * (1 - self.initial_loss):
            causes = ["the order of the batch gives the pairs away", "the towers have been trained before"]
        else:
            return
        self._say(trainer, f"{seen}. Likely causes: {'; '.join([*oddities(module, batch), *causes])}")

    def _stuck(self, mean: float, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> str:
        rates = ", ".join(sorted({f"{group['lr']:.2g}" for group in trainer.optimizers[0].param_groups}))
        causes = [
            *oddities(module, batch),
            f"the learning rate is too high, or too low (it is {rates} now)",
            "captions that do not belong to their clips (listen to some: the report and `atr check` help)",
            "the towers have collapsed: all embeddings alike (a longer warm-up, a lower rate, gradient clipping)",
        ]
        return (
            f"after {trainer.global_step} steps the loss is {mean:.3f}; towers that look at nothing reach "
            f"{self._guess:.3f}. It does not learn. Likely causes: {'; '.join(causes)}"
        )

    def _say(self, trainer: pl.Trainer, text: str) -> None:
        self.remarks.append(text)
        if trainer.is_global_zero:
            print(f"warning: {text}", flush=True)


def oddities(task: Any, batch: Batch) -> list[str]:
    """What is odd about a batch of this rank and about the towers, in words."""
    found, rows = [], len(batch.samples)
    if (distinct := len(batch.caption_id.unique())) <= rows / 2:
        found.append(f"only {distinct} of {rows} captions in the batch are different ones")
    full_scale = INT16_PEAK if batch.waveform.dtype == torch.int16 else 1.0
    loudest = batch.waveform.flatten(1).float().abs().amax(dim=1) / full_scale
    if silent := int((loudest < SILENT).sum()):
        found.append(f"{silent} of {rows} clips are silent")
    parts = {name: list(part.parameters()) for name, part in task.model.named_children()}
    if frozen := [name for name, own in parts.items() if own and not any(p.requires_grad for p in own)]:
        found.append(f"frozen: {', '.join(frozen)}")
    return found


def of_ranks(value: float, trainer: pl.Trainer) -> float:
    """The mean of a number over the ranks."""
    if trainer.world_size == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(total)
    return float(total) / trainer.world_size
