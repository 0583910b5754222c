"""Processes started by srun: one run folder, and what is refused."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from atr.errors import UsageError
from atr.ranks import check_started, cluster
from tests.conftest import ROOT, TINY

# A clock that is a minute further on rank 1.
LATE = """
import os, sys, time
clock = time.strftime
late = 60 * int(os.environ["SLURM_PROCID"])
time.strftime = lambda form, at=None: clock(form, at or time.localtime(time.time() + late))
from atr.launch import launch
launch()
"""


def srun(tmp_path: Path, *overrides: str) -> list[subprocess.CompletedProcess]:
    """Two tasks on two nodes, with the variables that SLURM sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_LOCALID": "0",
              "SLURM_JOB_ID": "4711", "SLURM_NODELIST": "localhost", "SLURM_JOB_NAME": "atr", "MASTER_PORT": port,
              "OMP_NUM_THREADS": "1",
              "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}  # fmt: skip
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", LATE, *overrides], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=os.environ | common | {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    ended = [task.communicate(timeout=300) for task in tasks]
    return [subprocess.CompletedProcess([], task.returncode, *texts) for task, texts in zip(tasks, ended, strict=True)]


def test_tasks_with_different_clocks_make_one_run(tiny, tmp_path):
    overrides = [*TINY, f"data.train=[{tiny.shards}]", "data.test=[]", "data.batch_size=8",
                 "data.num_workers=0", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.devices=1",
                 "trainer.num_nodes=2", "trainer.precision=32-true", "augment=none"]  # fmt: skip
    first, second = srun(tmp_path, *overrides)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr[-2000:] + second.stderr[-2000:]
    (run_dir,) = (tmp_path / "runs" / "demo").iterdir()
    assert (run_dir / "checkpoints" / "last.ckpt").is_file() and str(run_dir.name) in first.stdout
    assert "2 x cpu" in first.stdout and second.stdout == ""


def test_processes_that_the_trainer_does_not_know_of_are_refused(monkeypatch):
    for name in ("RANK", "GROUP_RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    for name, value in {"WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert cluster() is not None
    check_started(devices=2, nodes=2)
    with pytest.raises(UsageError, match=r"4 processes were started, but trainer.devices=1 and trainer.num_nodes=1"):
        check_started(devices=1, nodes=1)


def test_several_nodes_need_processes_on_them():
    assert cluster() is None
    check_started(devices=8, nodes=1)
    with pytest.raises(UsageError, match="torchrun or srun"):
        check_started(devices=8, nodes=2)
