"""The real `train(cfg)`: it learns, repeats itself, resumes, stops, starts from weights, and says what is wrong."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

import atr
from atr import experiment
from atr.checkpoint import newest_checkpoint, read_checkpoint
from atr.config import compose_config
from atr.errors import CheckpointError, DataError, UsageError
from atr.evaluation.own import config_of, evaluate_own, flat
from atr.evaluation.run import Subject
from atr.experiment import train
from atr.tasks import trainer
from atr.tasks.trainer import best_precision, build_trainer
from tests.conftest import ROOT, TINY
from tests.pipeline.test_datamodule import add_to_tar


def losses(run_dir):
    with (run_dir / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_overfits_sixteen_clips(tiny):
    cfg = tiny(
        "data.batch_size=16", "trainer.max_epochs=150", "masking=none", "optimizer=adamw", "optimizer.lr=3e-3",
        "model.audio.drop_path=0", "model.audio.spec_augment=null", "schedule.warmup_steps=10",
    )  # fmt: skip
    numbers = train(cfg)
    assert numbers["retrieval/t2a/R@1"] == 1.0 and numbers["retrieval/a2t/R@1"] == 1.0


def test_the_same_seed_gives_the_same_curve_and_another_seed_another(tiny, tmp_path):
    curves = []
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        train(tiny(f"run_dir={tmp_path / name}", f"seed={seed}", "trainer.log_every_n_steps=1", "trainer.max_epochs=3"))
        curves.append(losses(tmp_path / name))
    assert len(curves[0]) == 6
    assert curves[0] == curves[1] != curves[2]


def test_a_run_leaves_everything_that_is_needed(tiny):
    numbers = train(tiny("trainer.log_every_n_steps=1", f"data.validation=[{tiny.shards}]"))
    run = tiny.run_dir
    assert json.loads((run / "metrics.json").read_text()) == numbers
    assert {"zero_shot/accuracy", "retrieval/t2a/R@1", "retrieval/a2t/mAP@10", "zero_shot/chance"} <= set(numbers)
    assert (run / "report" / "index.html").stat().st_size > 20_000
    assert "validation/retrieval/t2a/R@1" in (run / "metrics.csv").read_text()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["data"]["train"]["clips"] == 16 and environment["packages"]["torch"]
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert checkpoint.about["labels"] == ["high_note", "low_note"] and checkpoint.config.seed == 0
    assert "seed: 0" in (run / "config.yaml").read_text()


def test_the_best_checkpoint_by_the_monitored_number_is_the_one_evaluated(tiny, monkeypatch):
    cfg = tiny(f"data.validation=[{tiny.shards}]", "evaluation.monitor=validation/retrieval/t2a/mAP@10")
    read: list[str] = []
    monkeypatch.setattr(trainer, "read_checkpoint", lambda path: read.append(Path(path).name) or read_checkpoint(path))
    numbers = train(cfg)
    assert read == ["best.ckpt"]
    best = tiny.run_dir / "checkpoints" / "best.ckpt"
    again = flat(evaluate_own(Subject.of(atr.load(best), best), config_of(best)).results)
    assert numbers == pytest.approx(again)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_every_parameter_moves(tiny, loss):
    train(tiny(f"loss={loss}", "optimizer=adamw", "trainer.max_epochs=2"))
    torch.manual_seed(0)
    before = instantiate(tiny().model).state_dict()
    after = read_checkpoint(tiny.run_dir / "checkpoints" / "last.ckpt").weights
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert set(still) <= {"text.inner.embeddings.token_type_ids", "text.inner.embeddings.position_ids"}


def test_resume_after_an_epoch_ends_with_the_weights_of_an_uninterrupted_run(tiny, tmp_path, monkeypatch):
    class KeepSecondEpoch(pl.Callback):
        """Copies what a run killed at the start of its third epoch would leave behind."""

        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                shutil.copy(tmp_path / "whole" / "checkpoints" / "last.ckpt", tmp_path / "early.ckpt")

    def with_keeper(*arguments):
        trainer = build_trainer(*arguments)
        trainer.callbacks.append(KeepSecondEpoch())
        return trainer

    monkeypatch.setattr(experiment, "build_trainer", with_keeper)
    train(tiny("trainer.max_epochs=4", f"run_dir={tmp_path / 'whole'}"))
    monkeypatch.undo()
    assert torch.load(tmp_path / "early.ckpt", weights_only=True)["global_step"] == 4
    train(tiny("trainer.max_epochs=4", f"run_dir={tmp_path / 'rest'}", f"resume={tmp_path / 'early.ckpt'}"))
    whole, rest = (read_checkpoint(tmp_path / n / "checkpoints" / "last.ckpt").weights for n in ("whole", "rest"))
    early = read_checkpoint(tmp_path / "early.ckpt").weights
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    assert not torch.equal(early["audio.norm.weight"], rest["audio.norm.weight"])


def test_resume_within_an_epoch_ends_with_the_weights_of_an_uninterrupted_run(tiny, tmp_path, monkeypatch):
    """The rest of the epoch is trained, each clip once: batch 4 of 4 follows batch 3."""

    class SaveInMidEpoch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    def with_saver(*arguments):
        trainer = build_trainer(*arguments)
        trainer.callbacks.append(SaveInMidEpoch())
        return trainer

    settings = ["trainer.max_epochs=3", "data.batch_size=4", "masking=words", "optimizer=adamw"]
    monkeypatch.setattr(experiment, "build_trainer", with_saver)
    train(tiny(*settings, f"run_dir={tmp_path / 'whole'}"))
    monkeypatch.undo()
    train(tiny(*settings, f"run_dir={tmp_path / 'rest'}", f"resume={tmp_path / 'middle.ckpt'}"))
    contents = {n: torch.load(tmp_path / n / "checkpoints" / "last.ckpt", weights_only=True) for n in ("whole", "rest")}
    assert contents["whole"]["global_step"] == contents["rest"]["global_step"] == 12
    whole, rest = (contents[name]["state_dict"] for name in ("whole", "rest"))
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_resume_refuses_another_run(tiny, tmp_path):
    train(tiny(f"run_dir={tmp_path / 'first'}"))
    path = tmp_path / "first" / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"a run with other values of loss, seed; give that run's experiment="):
        train(tiny(f"run_dir={tmp_path / 'second'}", f"resume={path}", "seed=5", "loss=sigmoid"))


def test_init_loads_every_tensor_and_says_so(tiny, tmp_path, capsys):
    train(tiny(f"run_dir={tmp_path / 'first'}"))
    path = tmp_path / "first" / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    train(tiny(f"run_dir={tmp_path / 'second'}", f"init={path}", "optimizer.lr=0", "trainer.max_epochs=1"))
    assert re.search(rf"audio: (\d+) of \1 tensors from {path}\n", capsys.readouterr().out)
    first, second = (read_checkpoint(tmp_path / n / "checkpoints" / "last.ckpt").weights for n in ("first", "second"))
    parameters = [name for name in first if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(first[name], second[name]) for name in parameters)
    with pytest.raises(
        CheckpointError, match=r"another architecture: .* Add to the command: \+\+model\.audio\.embed_dim=16$"
    ):
        train(tiny(f"run_dir={tmp_path / 'third'}", f"init={path}", "model.audio.embed_dim=32"))


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("SIGINT", 1),
        ("SIGTERM", 1),
        pytest.param("SIGTERM", 2, marks=pytest.mark.slow),
        pytest.param("SIGUSR1", 1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_all_processes_ends_with_a_checkpoint_and_the_way_to_go_on(name, devices, tmp_path, shards):
    """To the process group, and twice, as from a terminal, `timeout` or a cluster: with the loader's workers."""
    overrides = [*TINY, f"data.train=[{shards}]", f"data.test=[{shards}]", "data.batch_size=8", "data.num_workers=2",
                 "trainer.max_epochs=100000", "schedule.warmup_steps=2", f"run_dir={tmp_path / 'runs' / 'run'}",
                 "checkpoint.every_n_epochs=100000", "augment=none", "name=demo", "trainer.accelerator=cpu",
                 f"trainer.devices={devices}", "trainer.log_every_n_steps=1", "resume=auto"]  # fmt: skip
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ >> {tmp_path / 'asked'}\n")
    scontrol.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env=os.environ | {"SLURM_JOB_ID": "12", "PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        # A suite that runs in the background hands down an ignored SIGINT; at a terminal it is not ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "runs" / "run" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    for _ in range(2):
        os.killpg(process.pid, getattr(signal, name))
    out, err = process.communicate(timeout=120)
    path = tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt"
    assert process.returncode == 0, err
    step = read_checkpoint(path).step
    assert f"interrupted by {name} after step {step}; the state is in {path}" in out
    assert "continue with: python train.py model/mel=demo_32k" in out and f"resume={path}" in out
    assert out.count("interrupted by") == 1 and "Traceback" not in err and "rror" not in err
    assert atr.load(path).encode_text(["a note"]).shape == (1, 32)
    assert newest_checkpoint(tmp_path / "runs") == path
    assert ("job 12 is in the queue again" in out) == (tmp_path / "asked").exists() == (name == "SIGUSR1")


def test_resume_auto_takes_the_newest_whole_checkpoint(tiny, tmp_path):
    runs = tmp_path / "runs"
    train(tiny(f"run_dir={runs / 'one'}"))
    broken = runs / "two" / "checkpoints" / "last.ckpt"
    broken.parent.mkdir(parents=True)
    broken.write_bytes((runs / "one" / "checkpoints" / "last.ckpt").read_bytes()[:5000])
    assert newest_checkpoint(runs) == runs / "one" / "checkpoints" / "last.ckpt"
    train(tiny(f"run_dir={runs / 'three'}", "resume=auto", "trainer.max_epochs=3", "trainer.log_every_n_steps=1"))
    assert len(losses(runs / "three")) == 2  # the third epoch only
    for name in ("one", "three"):
        path = runs / name / "checkpoints" / "last.ckpt"
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=r"resume=auto, but no checkpoint under .* is whole; start without resume"
    ):
        train(tiny(f"run_dir={runs / 'four'}", "resume=auto"))


def test_resume_auto_begins_where_there_is_nothing_and_then_prefers_its_own_folder(tiny, tmp_path, capsys):
    """A cluster starts a job again with the same command."""
    runs = tmp_path / "runs"
    settings = ["resume=auto", "data.test=[]", "trainer.log_every_n_steps=1"]
    train(tiny(f"run_dir={runs / 'mine'}", *settings, "trainer.max_epochs=1"))
    assert f"resume=auto: nothing to go on with under {runs}; the run begins" in capsys.readouterr().out
    shutil.copytree(runs / "mine", runs / "newer")
    os.utime(runs / "newer" / "checkpoints" / "last.ckpt")
    train(tiny(f"run_dir={runs / 'mine'}", *settings, "trainer.max_epochs=2"))
    assert read_checkpoint(runs / "mine" / "checkpoints" / "last.ckpt").step == 4
    train(tiny(f"run_dir={runs / 'new'}", *settings, "trainer.max_epochs=3"))
    assert len(losses(runs / "new")) == 6 and losses(runs / "new")[:4] == losses(runs / "mine")


def test_wandb_logs_offline(tiny, tmp_path):
    train(tiny("logger=wandb", "logger.offline=true", "trainer.log_every_n_steps=1", "trainer.max_epochs=1"))
    assert list((tiny.run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    assert losses(tiny.run_dir)


def test_a_bad_sample_is_listed_and_too_many_stop_the_run(tiny, capsys):
    add_to_tar(tiny.shards / "00000.tar", [("broken.wav", b"no sound"), ("broken.json", b'{"text": ["x"]}')])
    numbers = train(tiny("bad_samples=0.1", "trainer.max_epochs=4", "data.batch_size=17"))
    said = capsys.readouterr().out
    assert f"train: 1 of 17 clips were skipped:\n  {tiny.shards}/00000.tar:broken: cannot be decoded" in said
    assert numbers["clips"] == 16
    with pytest.raises(DataError, match=r"1 of 17 clips cannot be used, more than bad_samples=0\.01:\n  .*:broken"):
        train(tiny("trainer.max_epochs=4", "data.batch_size=17"))


def test_wrong_data_and_missing_values_are_refused_before_training(tiny, tmp_path):
    with pytest.raises(DataError, match=r"fold9 does not exist; beside it there are: .*shards"):
        train(tiny(f"data.train=[{tiny.shards.parent / 'fold9'}]"))
    with pytest.raises(UsageError, match=r"experiment=finetune_clotho needs a value for: init"):
        train(tiny("experiment=finetune_clotho"))
    with pytest.raises(CheckpointError, match="is not there"):
        train(tiny(f"resume={tmp_path / 'nothing.ckpt'}"))
    assert not (tiny.run_dir / "checkpoints").exists()


def test_precision_fits_the_processor(monkeypatch):
    for has_bf16, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has_bf16: has)
        assert best_precision("cpu") == expected


def test_a_gpu_that_only_imitates_bf16_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_bf16, expected in ((True, "bf16-mixed"), (False, "32-true")):
        imitates = lambda including_emulation=True, has=has_bf16: has or including_emulation  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", imitates)
        assert best_precision("auto") == best_precision("gpu") == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.templates=[]", "no prompt template"),
        ("evaluation.templates=['a sound']", "has no {label} in it"),
        ("evaluation.labels=[low_note]", "evaluation.labels lacks 'high_note', which stands on clips of the set"),
        ("loss.exclude=[captions]", "loss.exclude names 'captions'; allowed: caption, clip, source, label"),
        ("model.audio.attention=flash", "attention is 'flash'; allowed: auto, plain, sdpa"),
        ("masking.word_mask.variant=x", "allowed: mask_token, literal"),
        ("data.batch_size=100", "batch_size=100 but there are 16 training clips"),
    ],
)
def test_a_wrong_value_is_refused_before_training(tiny, override, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        train(tiny(override))


@pytest.mark.slow
def test_the_demo_learns(tmp_path):
    numbers = train(compose_config([f"run_dir={tmp_path}", "trainer.max_epochs=15", "schedule.warmup_steps=10"]))
    assert numbers["zero_shot/accuracy"] > 0.3
