"""Runs the real `train(cfg)` and writes down every batch it trained; `test_kill.py` kills it.

Its argument is a json with `overrides`, `record` (path without suffix), `park_after` (a step, or null) and
`park_writing` (a step and a place of `PLACES`, or null). A parked process waits to be killed, at the beginning of the
next batch or while it writes the step's checkpoint; otherwise it trains to the end.
"""

import faulthandler
import hashlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from atr import experiment
from atr.config import compose_config
from atr.launch import quiet
from atr.tasks.stopping import Interrupted
from atr.types import Batch

PLACES = ["within", "before names", "between names"]
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


def park_writing(record: str, step: int, place: str) -> None:
    """The first checkpoint of a step gets stuck."""
    save, replace, current = torch.save, Path.replace, 0

    def park() -> None:
        Path(f"{record}.0.parked").touch()
        time.sleep(600)

    def saving(content: dict[str, Any], file: Any) -> None:
        nonlocal current
        current = content["global_step"]
        if current == step and place == "within":
            whole = io.BytesIO()
            save(content, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            park()
        save(content, file)

    def naming(self: Path, target: Path) -> Path:
        names = {"before names": "checkpoint.part", "between names": "weights.part"}
        if current == step and self.name == names.get(place):
            park()
        return replace(self, target)

    torch.save, Path.replace = saving, naming


def run(path: str, output: str, rank: int, ranks: int, port: int) -> None:
    """As a process of its own group, started as torchrun starts one of several ranks."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.enable()
    if ranks > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
            "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "kill",
        }  # fmt: skip
    main(path)


def main(path: str) -> None:
    given = json.loads(Path(path).read_text())

    def recorded(*arguments: Any) -> pl.Trainer:
        trainer = build_trainer(*arguments)
        trainer.callbacks.append(Record(given["record"], given["park_after"]))  # after all that save
        return trainer

    experiment.build_trainer = recorded
    if given["park_writing"]:
        park_writing(given["record"], *given["park_writing"])
    quiet()
    try:
        experiment.train(compose_config(given["overrides"]))
    except Interrupted as stop:  # `launch` ends with 0, too
        print(stop, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
