"""What further processes are started with, sweeps, and launchers."""

import importlib.util
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from atr.config import compose_config, conf_dir
from atr.errors import DataError, UsageError
from atr.launch import check_launcher, fail, prepare_children
from tests.conftest import TINY


@pytest.mark.parametrize("folder", [r"a b,c=d's \e", r"ends\\", r"\'", "runs/demo/2026-01-01_00-00-00/1"])
def test_a_child_gets_one_run_of_a_sweep_and_its_folder(monkeypatch, folder):
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1", "run_dir=x"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    prepare_children(["seed=1", "run_dir=x"], folder)
    assert sys.argv[1] == "seed=1" and sys.modules["__main__"].__spec__.name == "atr.launch"
    assert compose_config(sys.argv[1:]).run_dir == folder


def test_a_launcher_needs_a_sweep(monkeypatch):
    with pytest.raises(UsageError, match="put -m before it"):
        check_launcher(["hydra/launcher=slurm", "seed=0"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"atr\[slurm\]"):
        check_launcher(["-m", "hydra/launcher=slurm", "seed=0"])
    check_launcher(["-m", "seed=0"])


@pytest.mark.parametrize(
    ("rank", "error", "said"),
    [
        ({}, UsageError("no"), "error: no\n"),
        ({"LOCAL_RANK": "0"}, UsageError("no"), "error: no\n"),
        ({"LOCAL_RANK": "1"}, UsageError("no"), ""),
        ({"SLURM_LOCALID": "1"}, UsageError("no"), ""),
        ({"LOCAL_RANK": "1"}, DataError("no"), "error (process 1): no\n"),
    ],
)
def test_wrong_usage_is_told_once_on_a_machine_and_bad_data_by_each_process(monkeypatch, capsys, rank, error, said):
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in rank.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        fail(error)
    assert stop.value.code == (2 if isinstance(error, UsageError) else 1) and capsys.readouterr().err == said


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason='needs pip install "atr[slurm]"')
def test_a_job_has_a_task_for_each_device():
    chosen = ["hydra/launcher=slurm", "trainer.devices=8", "trainer.num_nodes=2"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=chosen, return_hydra_config=True)
    launcher = OmegaConf.to_container(cfg.hydra, resolve=False)["launcher"]
    found = {name: OmegaConf.select(cfg, f"hydra.launcher.{name}") for name in launcher}
    assert (found["nodes"], found["tasks_per_node"], found["gpus_per_node"], found["name"]) == (2, 8, 8, "demo")


@pytest.mark.slow
def test_a_sweep_with_two_devices_makes_each_run_once(tiny, tmp_path):
    overrides = [*TINY, f"data.train=[{tiny.shards}]", "data.test=[]", "data.batch_size=8", "data.num_workers=0",
                 "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true",
                 "schedule.warmup_steps=2", "augment=none"]  # fmt: skip
    command = [sys.executable, "-m", "atr", "train", "-m", "seed=0,1", *overrides]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    (sweep,) = (tmp_path / "runs" / "demo").iterdir()
    assert sorted(path.parent.parent.name for path in sweep.glob("*/checkpoints/last.ckpt")) == ["0", "1"]
    assert result.stdout.count("2 x cpu") == 2
