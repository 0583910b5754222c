"""A loss or gradient that is no number: the update is not made, and the clips are named."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from atr.errors import AtrError, UsageError
from atr.types import Batch

NAMED = 8  # clips in a message; all of the batch stand in the file
AT_ONCE = 32  # clips that are encoded again to find the bad ones


class NonFinite(AtrError):
    """The loss or a gradient is not finite; the state before it is saved."""


class Pair(NamedTuple):
    """A clip of the batch, and whether its embeddings are finite by themselves."""

    key: str
    corpus: str
    finite: bool


class RefuseNonFinite(Callback):
    """Looks at the loss and at the norm of all gradients before each optimizer step.

    Whatever is not finite is kept out of the weights, of the optimizer and of the running statistics. All ranks decide
    alike. The answer is read from the device at each step, which waits for the backward pass; the next step's launch
    is no longer hidden behind it. Under an fp16 scaler the gradients are left to it, which expects some to be infinite.

    A skipped step counts as a step: schedule, order of the data and chance go on as if it had been made.

    Args:
        run_dir: gets `non_finite.jsonl` or `skipped.jsonl`, and `checkpoints/interrupted.ckpt`.
        answer: `stop` or `skip`.
        most_skips: more steps than these in a row stop the run.

    Attributes:
        remarks: what was said, for the report.
    """

    def __init__(self, run_dir: Path, answer: str, most_skips: int) -> None:
        if answer not in ("stop", "skip"):
            raise UsageError(f"watch.non_finite is {answer!r}; allowed: stop, skip")
        if not isinstance(most_skips, int) or most_skips < 0:
            raise UsageError(f"watch.most_skips is {most_skips!r}; allowed: a whole number from 0 on")
        self.run_dir, self.answer, self.most_skips = run_dir, answer, most_skips
        self.skipped = self.in_a_row = 0
        self._batches: list[Batch] = []
        self._losses: list[Tensor] = []
        self._statistics: list[tuple[Tensor, Tensor]] = []

    @property
    def remarks(self) -> list[str]:
        """How many steps were left out."""
        return [f"{self.skipped} steps were skipped, see skipped.jsonl"] if self.skipped else []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Keeps the batch, and before the first one of a step the running statistics of the batch norms."""
        if not self._batches:
            norms = [module for module in pl_module.modules() if isinstance(module, _BatchNorm)]
            self._statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
        self._batches.append(batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keeps the loss, unread."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Lets the step happen, leaves it out, or stops."""
        batches, losses = self._batches, self._losses
        self._batches, self._losses = [], []
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if all_finite(losses, [] if scaled else parameters, trainer):
            self.in_a_row = 0
            return
        for buffer, before in self._statistics:
            buffer.copy_(before)
        pairs = of_all_ranks([pair for batch in batches for pair in sound(pl_module, batch)], trainer)
        loss = float(sum(losses)) if losses else float("nan")
        step = trainer.global_step + 1
        said = message(pl_module, loss, step, pairs)
        self.in_a_row += 1
        skip = self.answer == "skip" and self.in_a_row <= self.most_skips
        name = "skipped.jsonl" if skip else "non_finite.jsonl"
        if trainer.is_global_zero:
            write_line(self.run_dir / name, step, loss, pairs)
        if not skip:
            path = self.run_dir / "checkpoints" / "interrupted.ckpt"
            trainer.save_checkpoint(path)
            many = f" {self.in_a_row} steps in a row, more than watch.most_skips." if self.answer == "skip" else ""
            raise NonFinite(
                f"{said}{many} {NEXT}. The state before this step is in {path}: resume=… goes on with it, also with "
                "other values of trainer and watch; init=… begins a new run from its weights, with any others"
            )
        self.skipped += 1
        if not scaled:  # a scaler leaves the step out by itself, and needs to see why
            for parameter in parameters:
                parameter.grad = None  # an optimizer passes over a parameter without one: no step, no decay
        if trainer.is_global_zero:
            print(f"warning: {said} Its update is left out ({self.skipped} so far; {self.run_dir / name})", flush=True)


NEXT = (
    "Listen to the clips and run `atr check` on their shards; a lower optimizer.lr, a longer warm-up, "
    "trainer.gradient_clip_val=1 or trainer.precision=32-true help where no single clip is at fault; "
    "watch.non_finite=skip leaves such updates out"
)


@torch.no_grad()
def all_finite(losses: list[Tensor], parameters: list[nn.Parameter], trainer: pl.Trainer) -> bool:
    """Are losses and gradients numbers, on every rank?"""
    numbers = [loss.float().reshape(()) for loss in losses]
    if parameters:
        norm: Any = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        numbers.append((norm.full_tensor() if hasattr(norm, "full_tensor") else norm).float())
    if not numbers:
        return True
    finite = torch.stack(numbers).isfinite().all().int()
    if trainer.world_size > 1:
        torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)
    return bool(finite)


@torch.no_grad()
def sound(task: Any, batch: Batch) -> list[Pair]:
    """The pairs of a batch, each looked at by itself: in evaluation mode no clip depends on another."""
    model = task.model
    modes = {part: part.training for part in model.modules()}
    model.eval()
    finite = []
    for first in range(0, len(batch.samples), AT_ONCE):
        rows = slice(first, first + AT_ONCE)
        finite += task.finite(batch, rows).tolist()
    for part, training in modes.items():
        part.training = training
    return [Pair(sample.key, sample.corpus, good) for sample, good in zip(batch.samples, finite, strict=True)]


def of_all_ranks(pairs: list[Pair], trainer: pl.Trainer) -> list[Pair]:
    """The global batch."""
    if trainer.world_size == 1:
        return pairs
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, pairs)
    return [pair for part in parts for pair in part]


def message(task: Any, loss: float, step: int, pairs: list[Pair]) -> str:
    """What happened, and in which clips to look for the reason."""
    scaled = f" (logit scale {float(task.loss.logit_scale.detach().exp()):.4g})" if hasattr(task, "loss") else ""
    what = f"the loss is {loss:.4g}, but its gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
    said = f"step {step}: {what}{scaled}."
    if broken := [name for name, value in task.named_parameters() if not value.isfinite().all()]:
        return f"{said} The weights themselves are not finite: {len(broken)} tensors, the first is {broken[0]}."
    bad = [pair for pair in pairs if not pair.finite]
    if not bad:
        return f"{said} By itself each clip's {task.MADE[0]} is finite. The batch: {named(pairs)}."
    return f"{said} Clips whose {task.MADE[1]} are not finite: {named(bad)}; {len(pairs)} in the batch."


def named(pairs: list[Pair]) -> str:
    """The first few clips, with their corpora, and how many there are."""
    names = [f"{pair.key} ({pair.corpus})" if pair.corpus else pair.key for pair in pairs[:NAMED]]
    return ", ".join(names) + (f", … ({len(pairs)})" if len(pairs) > NAMED else "")


def write_line(path: Path, step: int, loss: float, pairs: list[Pair]) -> None:
    """Adds a step and its clips to a file of one json per line."""
    clips = [pair._asdict() for pair in pairs]
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "loss": str(loss), "clips": clips}, ensure_ascii=False) + "\n")
