"""The contrastive LightningModule: one step is encode, compare, log."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from atr.errors import UsageError
from atr.evaluation.encode import Part, by_corpus, encode_clips, join_set
from atr.evaluation.scores import gather_ranks, score
from atr.losses import ContrastiveLoss, Rows
from atr.models.clap import Clap
from atr.optim import Groups, WarmupCosine
from atr.pipeline.collate import ids
from atr.tasks.freezing import Freezing
from atr.tasks.parts import encode_in_parts
from atr.tasks.resume import rewind
from atr.tasks.sharding import gather_weights, release_weights, shard
from atr.types import Batch


class ContrastiveTask(pl.LightningModule):
    """Trains a `Clap` under a contrastive loss.

    Args:
        model: the two towers.
        loss: holds the logit scale (and bias), which are trained with the model.
        optimizer: called with the parameter groups.
        schedule: called with the optimizer and the number of steps.
        seed: of the chance inside the model; re-seeded at each step from (seed, step, rank).
        templates: prompts of the zero-shot classification at each validation.
        provenance: goes into each checkpoint as `checkpoint["atr"]`; makes it usable on its own.
        corpora: of the training set; with several, each one's loss and recall are logged.
        micro_batch: clips that go through the model at once; None: all of this device's batch.
        parameters: learning rates of the parts of the model, and which are frozen.
        seconds: length of the training clips; None: of the model's.
    """

    MADE = ("embedding", "embeddings")  # of a clip, as messages call it and them

    def __init__(
        self,
        model: Clap,
        loss: ContrastiveLoss,
        optimizer: Callable[..., Optimizer],
        schedule: WarmupCosine,
        seed: int,
        templates: Sequence[str],
        provenance: dict[str, Any],
        corpora: Sequence[str] = (),
        micro_batch: int | None = None,
        parameters: Groups | None = None,
        seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.optimizer, self.schedule = optimizer, schedule
        self.seed, self.templates, self.provenance = seed, list(templates), provenance
        self.micro_batch = micro_batch
        self.corpora = dict(zip(corpora, ids(corpora).tolist(), strict=True)) if len(corpora) > 1 else {}
        self.parameter_groups = parameters or Groups()
        self.freezing = Freezing(model, self.parameter_groups.freeze, seconds)
        self._parts: list[Part] = []

    def configure_model(self) -> None:
        """Under FSDP2, shards the weights before the optimizer is made."""
        if self.device_mesh is not None:
            shard(self.model, self.loss, self.device_mesh["data_parallel"])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout, DropPath and SpecAugment depend on (seed, step, rank) only."""
        state = np.random.SeedSequence([self.seed, self.global_step, self.global_rank]).generate_state(1)
        torch.manual_seed(int(state[0]))
        self.freezing.set_modes(self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        embeddings = encode_in_parts(self.model, batch, self.micro_batch)
        loss = self.loss(embeddings, batch)
        if self.corpora and (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log_corpora(self.loss.rows(embeddings, batch), len(batch.samples))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.samples))
        self.log("train/logit_scale", self.loss.logit_scale.detach().exp())
        return loss

    def _log_corpora(self, rows: Rows, batch_size: int) -> None:
        """Loss and recall within the batch of each corpus, as `train/clotho/loss`, `train/clotho/t2a/R@1`, …."""
        for name, number in self.corpora.items():
            own = rows.corpus == number
            if own.any():
                numbers = {"loss": rows.loss, "t2a/R@1": rows.t2a.float(), "a2t/R@1": rows.a2t.float()}
                means = {f"train/{name}/{what}": value[own].mean() for what, value in numbers.items()}
                self.log_dict(means, batch_size=batch_size)

    @torch.no_grad()
    def finite(self, batch: Batch, rows: slice) -> Tensor:
        """Whether both embeddings of each of some pairs of a batch are numbers: bool `(rows,)`."""
        audio = self.model.encode_audio(batch.waveform[rows])
        text = self.model.encode_text(batch.input_ids[rows], batch.attention_mask[rows])
        return audio.isfinite().all(dim=1) & text.isfinite().all(dim=1)

    def on_after_backward(self) -> None:
        """Of parts that are frozen in this epoch nothing is clipped or reaches the optimizer."""
        self.freezing.drop_gradients(self.current_epoch)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Steps, and keeps the logit scale in its range; at once, as a checkpoint may be written right after it."""
        super().optimizer_step(*arguments, **named)
        self.loss.clamp()

    def on_validation_start(self) -> None:
        """Under FSDP2: the ranks encode different numbers of batches."""
        gather_weights(self.model)

    def on_validation_end(self) -> None:
        """Under FSDP2: shards again."""
        release_weights(self.model)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Encodes a batch; the numbers need the whole set."""
        self._parts.append(encode_clips(self.model, batch))

    def on_validation_epoch_end(self) -> None:
        """Retrieval and zero-shot numbers of the validation set, as `validation/retrieval/t2a/R@1`, …."""
        encoded = join_set(self.model, gather_ranks(self._parts), self.device)
        self._parts = []
        # Logged on every rank, as each decides on its own which checkpoint is the best.
        for corpus, part in {"": encoded, **by_corpus(encoded)}.items():
            prefix = f"validation/{corpus}/" if corpus else "validation/"
            scores = score(self.model, part, self.templates, self.device)
            self.log_dict({f"{prefix}{name}": float(value) for name, value in scores.flat().items()})

    def configure_optimizers(self) -> Any:
        """The optimizer over the parameter groups, its schedule stepping with it."""
        optimizer = self.optimizer(self.groups())
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UsageError("the schedule needs an end: set trainer.max_epochs or trainer.max_steps")
        schedule = self.schedule(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups, by default two: with weight decay, and without."""
        lr = getattr(self.optimizer, "keywords", {}).get("lr")
        return self.parameter_groups(self.model, self.loss, lr)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Tells the data, and the trainer, how far the interrupted epoch was trained."""
        self.trainer.datamodule.resume_at = rewind(checkpoint)  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what is needed to use the weights without this run."""
        checkpoint["atr"] = self.provenance
