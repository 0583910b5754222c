"""The LightningModule: chance per step, the clamp, and two processes."""

import csv
import subprocess
import sys

import pytest
import torch
from hydra.utils import instantiate

from atr.experiment import build_data, train
from atr.shards.write import write_shards
from atr.tasks.contrastive import ContrastiveTask
from tests.conftest import TINY


def make_task(cfg):
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    task = ContrastiveTask(
        model, instantiate(cfg.loss), instantiate(cfg.optimizer), instantiate(cfg.schedule), cfg.seed, ["{label}"], {}
    )
    return task, build_data(cfg, model)


def test_the_chance_of_a_step_depends_on_seed_and_step_only(tiny):
    task, data = make_task(tiny())
    task.train()
    batch = next(iter(data.train_dataloader()))

    def loss_after(burnt):
        torch.rand(burnt)
        task.on_train_batch_start(batch, 0)
        task.model.audio.mel_norm.reset_running_stats()
        return task.loss(task.model(batch), batch).item()

    assert loss_after(0) == loss_after(17)
    first = loss_after(0)
    task.seed = 1
    assert loss_after(0) != first


def test_the_logit_scale_is_clamped_after_each_step(tiny):
    task, _ = make_task(tiny())
    task.loss.logit_scale.data.fill_(10.0)
    task.optimizer_step(0, 0, torch.optim.SGD(task.parameters(), lr=0.0))
    assert task.loss.logit_scale.exp().item() == pytest.approx(100.0, rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_with_no_unused_parameter(tiny, tmp_path):
    """DDP stops at the second step when a parameter got no gradient in the first. The numbers come once."""
    overrides = [*TINY, f"data.train=[{tiny.shards}]", f"data.test=[{tiny.shards}]", f"data.validation=[{tiny.shards}]",
                 "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=3", "trainer.accelerator=cpu",
                 "trainer.devices=2", "trainer.strategy=ddp", "trainer.precision=32-true", "schedule.warmup_steps=2",
                 "augment=none", "evaluation.monitor=validation/retrieval/t2a/mAP@10"]  # fmt: skip
    command = [sys.executable, "-m", "atr", "train", *overrides]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    (run_dir,) = (tmp_path / "runs" / "demo").iterdir()
    assert (run_dir / "checkpoints" / "best.ckpt").is_file() and (run_dir / "metrics.json").is_file()
    assert result.stdout.count("zero-shot   accuracy") == 1 and "2 x cpu" in result.stdout


def test_each_corpus_of_a_mixture_has_its_own_curves(tiny, tmp_path, clips):
    write_shards(clips[:12], tmp_path / "tones", codec="flac")
    write_shards(clips[12:], tmp_path / "bells", codec="flac")
    corpora = f"{{tones: [{tmp_path / 'tones'}], bells: [{tmp_path / 'bells'}]}}"
    train(tiny(f"data.train={corpora}", f"data.validation={corpora}", "data.batch_size=16", "trainer.max_epochs=4",
               "trainer.log_every_n_steps=2", "data.mixture.weights={tones: 1, bells: 1}"))  # fmt: skip
    with (tiny.run_dir / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    steps = [row for row in rows if "train/loss" in row]
    for row in steps:  # eight clips of each
        assert (row["train/tones/loss"] + row["train/bells/loss"]) / 2 == pytest.approx(row["train/loss"], rel=1e-4)
        assert 0 <= row["train/bells/t2a/R@1"] <= 1 and 0 <= row["train/tones/a2t/R@1"] <= 1
    last = [row for row in rows if "validation/clips" in row][-1]
    assert (last["validation/tones/clips"], last["validation/bells/clips"], last["validation/clips"]) == (12, 4, 16)
    assert last["validation/bells/retrieval/t2a/candidates"] == 4
    assert last["validation/bells/retrieval/t2a/R@1"] >= last["validation/retrieval/t2a/R@1"] * 0.5
