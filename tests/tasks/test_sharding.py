"""Two processes train what one does: DDP and FSDP2, both losses, and going on from each other's checkpoints.

Measured over 8 steps of AdamW: losses within 5e-7, weights within 2e-6; nothing is left to chance in the model, and the
mel norm's statistics are frozen.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from atr.checkpoint import build_model, read_checkpoint
from atr.config import build
from atr.models.htsat import HTSAT
from atr.shards.write import write_shards
from atr.tasks.sharding import blocks
from tests.conftest import ROOT, TINY, make_clips
from tests.ranks_child import run

STEPS = 8  # two epochs of four
KEPT = 5  # in the second epoch
LIMIT = 1e-5
QUIET_MODEL = [
    "model.audio.drop_path=0", "model.audio.spec_augment=null", "++model.text.config.hidden_dropout_prob=0",
    "++model.text.config.attention_probs_dropout_prob=0",
]  # fmt: skip
LOSSES = ("info_nce", "sigmoid")
IN_PARTS = ("micro_batch=3", "loss.chunk=3", "compute.recompute=[audio,text]")  # of the 4 clips of a device


class Runs:
    """Overrides and results of runs, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_shards(make_clips(folder / "sounds", 32), folder / "shards", codec="flac")
        write_shards(make_clips(folder / "few", 9), folder / "validation", codec="flac")

    def plan(self, name: str, devices: int, *overrides: str, **more: object) -> dict:
        own = [
            *overrides, *TINY, *QUIET_MODEL, f"run_dir={self.folder / name}", f"data.train=[{self.folder / 'shards'}]",
            f"data.validation=[{self.folder / 'validation'}]", "data.test=[]", "data.batch_size=8",
            "data.num_workers=0", "trainer.max_epochs=2", "trainer.accelerator=cpu", f"trainer.devices={devices}",
            "schedule.warmup_steps=2", "trainer.precision=32-true", "trainer.enable_progress_bar=false", "augment=none",
            "leaks.action=ignore", "loss.exclude=[caption,clip]",
        ]  # fmt: skip
        return {"overrides": own, "record": str(self.folder / f"{name}.json"), **more}

    def losses(self, name: str) -> list[float]:
        return json.loads((self.folder / f"{name}.json").read_text())

    def checkpoint(self, name: str) -> Path:
        return self.folder / name / "checkpoints" / "last.ckpt"

    def weights(self, name: str) -> dict[str, Tensor]:
        return torch.load(self.checkpoint(name), weights_only=True)["state_dict"]

    def apart(self, one: str, other: str) -> tuple[float, float]:
        """The largest difference of losses (of the last steps, where one has fewer), and of weights."""
        last = min(len(self.losses(one)), len(self.losses(other)))
        pairs = zip(self.losses(one)[-last:], self.losses(other)[-last:], strict=True)
        ours, theirs = self.weights(one), self.weights(other)
        assert ours.keys() == theirs.keys()
        return max(abs(a - b) for a, b in pairs), max((ours[k] - theirs[k]).abs().max().item() for k in ours)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    """All runs: those of two processes in one start of them, as most of their time is imports."""
    runs = Runs(tmp_path_factory.mktemp("ranks"))
    plans = []
    for loss in LOSSES:
        run(**runs.plan(f"one-{loss}", 1, f"loss={loss}"))
        plans.append(runs.plan(f"ddp-{loss}", 2, f"loss={loss}", keep=KEPT))
        plans.append(runs.plan(f"fsdp-{loss}", 2, f"loss={loss}", "trainer=fsdp2", keep=KEPT))
    run(**runs.plan("one-clipped", 1, "trainer.gradient_clip_val=0.5"))
    clipped = ("trainer=fsdp2", "trainer.gradient_clip_val=0.5")
    plans.append(runs.plan("fsdp-clipped", 2, *clipped, "optimizer.fused=true"))
    plans.append(runs.plan("fsdp-parts", 2, "trainer=fsdp2", *IN_PARTS))
    plans.append(runs.plan("alone", 2, alone=True))
    run(**runs.plan("other-order", 1, "data.seed=1"))
    plans.append(runs.plan("fsdp-from-fsdp", 2, "trainer=fsdp2", f"resume={runs.folder / 'fsdp-info_nce.ckpt'}"))
    plans.append(runs.plan("fsdp-from-ddp", 2, "trainer=fsdp2", f"resume={runs.folder / 'ddp-info_nce.ckpt'}"))
    plans.append(runs.plan("scale", 2))
    (runs.folder / "plans.json").write_text(json.dumps(plans))
    torchrun(2, str(ROOT / "tests" / "ranks_child.py"), str(runs.folder / "plans.json"))
    run(**runs.plan("one-from-fsdp", 1, f"resume={runs.folder / 'fsdp-info_nce.ckpt'}"))
    return runs


def torchrun(processes: int, *command: str) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
    path = f"{ROOT / 'src'}:{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [*start, *command], capture_output=True, text=True, timeout=400, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(runs, strategy, loss):
    assert len(runs.losses(f"one-{loss}")) == STEPS
    losses, weights = runs.apart(f"one-{loss}", f"{strategy}-{loss}")
    assert losses < LIMIT and weights < LIMIT


@pytest.mark.parametrize("control", ["alone", "other-order"])
def test_a_loss_of_own_rows_only_and_another_order_do_not(runs, control):
    losses, weights = runs.apart("one-info_nce", control)
    assert losses > 1e-3 and weights > 1e-3


def test_gradients_in_shards_are_clipped_by_their_whole_norm(runs):
    losses, weights = runs.apart("one-clipped", "fsdp-clipped")
    assert losses < LIMIT and weights < LIMIT
    assert runs.apart("one-info_nce", "fsdp-clipped")[1] > 1e-3


def test_shards_that_are_computed_again_part_by_part_train_the_same(runs):
    losses, weights = runs.apart("one-info_nce", "fsdp-parts")
    assert losses < LIMIT and weights < LIMIT


@pytest.mark.parametrize("name", ["fsdp-from-fsdp", "fsdp-from-ddp", "one-from-fsdp"])
def test_a_run_goes_on_under_another_strategy_from_the_middle_of_an_epoch(runs, name):
    assert len(runs.losses(name)) == STEPS - KEPT
    losses, weights = runs.apart("one-info_nce", name)
    assert losses < LIMIT and weights < LIMIT


def test_the_gradient_of_the_scale_is_the_mean_over_the_ranks(runs):
    assert [(runs.folder / f"scale.json.{rank}").read_text() for rank in range(2)] == ["1.5", "1.5"]


def test_a_checkpoint_of_shards_is_one_file_of_whole_tensors(runs):
    path = runs.checkpoint("fsdp-info_nce")
    model = build_model(read_checkpoint(path))
    assert isinstance(model.audio, HTSAT) and all(type(p) is nn.Parameter for p in model.parameters())
    assert all(type(tensor) is Tensor for tensor in runs.weights("fsdp-info_nce").values())


def test_blocks_and_layers_are_what_is_sharded(tiny):
    model = build(tiny("model.text.config.num_hidden_layers=3").model)
    names = [type(module).__name__ for module in blocks(model)]
    assert names == ["Block"] * 4 + ["RobertaLayer"] * 3
