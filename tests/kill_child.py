"""Runs the real `train(cfg)` and writes down every batch it trained; `test_kill.py` kills it.

Lightning starts further ranks as this script again, with the same argument: a json with `overrides`, `record` (path
without suffix) and `park_after` (a step, or null). A parked process waits to be killed, at the beginning of the next
batch; otherwise it trains to the end.
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from atr import experiment
from atr.config import compose_config
from atr.launch import quiet
from atr.types import Batch

build_trainer = experiment.build_trainer


class Record(pl.Callback):
    """One json line for a step and rank, written out at once."""

    def __init__(self, record: str, park_after: int | None) -> None:
        self.record, self.park_after = record, park_after

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, index: int) -> None:
        if trainer.global_step == self.park_after:
            Path(f"{self.record}.{trainer.global_rank}.parked").touch()
            time.sleep(600)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        line = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "clips": batch.clip_id.tolist(),
            "samples": digests(batch),
            "loss": float(outputs["loss"]).hex(),
        }
        with Path(f"{self.record}.{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def digests(batch: Batch) -> list[str]:
    """A hash for each sample over all of it that trains; padding, which depends on the neighbours, is left out."""
    found = []
    for row in range(len(batch.waveform)):
        digest = hashlib.sha256(batch.waveform[row].numpy().tobytes())
        digest.update(batch.input_ids[row][batch.attention_mask[row].bool()].numpy().tobytes())
        for ids in (batch.clip_id, batch.source_id, batch.label_id, batch.caption_id):
            digest.update(ids[row].numpy().tobytes())
        found.append(digest.hexdigest())
    return found


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())

    def recorded(*arguments: Any) -> pl.Trainer:
        trainer = build_trainer(*arguments)
        trainer.callbacks.append(Record(given["record"], given["park_after"]))  # after all that save
        return trainer

    experiment.build_trainer = recorded
    quiet()
    experiment.train(compose_config(given["overrides"]))


if __name__ == "__main__":
    main()
