"""Where a number comes from: code, versions, hardware, data."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import atr
from atr.config import root_of_checkout
from atr.pipeline.datamodule import AudioTextData

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "transformers",
    "timm",
    "numpy",
    "soundfile",
    "soxr",
    "audiomentations",
)


def environment() -> dict[str, Any]:
    """Git revision, package versions and hardware, as plain values."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "atr": atr.__version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": device,
        "threads": torch.get_num_threads(),
    }


def git_revision() -> str | None:
    """The checkout's commit, with `+` where files differ from it; None outside a git checkout."""
    root = root_of_checkout()
    if root is None:
        return None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def data_hashes(data: AudioTextData) -> dict[str, Any]:
    """For each set: its clips, and one SHA-256 over its tars' own and the names of its corpora.

    Where clips are left out, `kept` is the SHA-256 of the numbers of the others.
    """
    result: dict[str, dict[str, Any]] = {}
    for name, shards in data.sets.items():
        corpora = [shards.corpora[number] for number in shards.corpus_of_shard]
        parts = [index.sha256 + corpus for index, corpus in zip(shards.indexes, corpora, strict=True)]
        digest = hashlib.sha256("".join(parts).encode()).hexdigest()
        result[name] = {"clips": len(shards), "shards": len(shards.indexes), "sha256": digest}
        if len(shards) < shards.starts[-1]:
            result[name]["kept"] = hashlib.sha256(shards.numbers.astype("<i8").tobytes()).hexdigest()
    return result


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
