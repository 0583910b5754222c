"""Checkpoints of the tiny model with random weights, as training writes them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import atr
from atr.checkpoint import describe
from atr.config import build, compose_config
from atr.inference import AudioTextModel
from atr.initialise import configured
from atr.models.clap import Clap
from atr.tasks.files import WholeFiles
from tests.conftest import TINY, Compose

FITTING = ("model.audio.window=4", "model.text.pooling=pooler")  # what ClapModel can represent
LOG_SCALE = 2.5


def spread(clap: Clap) -> Clap:
    """Random weights and statistics so large that an exchanged or forgotten tensor changes embeddings visibly."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in clap.named_parameters():
        norm = parameter.ndim == 1 and "norm" in name.lower() and name.endswith("weight")
        size = 0.3 if parameter.ndim < 2 or "bias_table" in name else 2.0 * parameter[0].numel() ** -0.5
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size + norm)
    norm = clap.audio.mel_norm
    norm.running_mean.uniform_(-40, -20, generator=generator)
    norm.running_var.uniform_(50, 150, generator=generator)
    return clap.eval()


def save_checkpoint(cfg: DictConfig, path: Path, log_scale: float = LOG_SCALE) -> Path:
    """A checkpoint of the configured model with random weights, as training writes it."""
    OmegaConf.resolve(cfg)
    clap = spread(build(cfg.model))
    state = {f"model.{name}": value for name, value in clap.state_dict().items()}
    about = describe(cfg, clap, ["low_note", "high_note"], {"train": {"clips": 16, "shards": 1, "sha256": "abc"}})
    content = {"state_dict": state | {"loss.logit_scale": torch.tensor(log_scale)}, "atr": about, "global_step": 7}
    WholeFiles().save_checkpoint(content, path)
    return path


@pytest.fixture
def make(tmp_path):
    """`make("model.audio.window=4", …)` -> path of a checkpoint."""
    return lambda *overrides: save_checkpoint(
        Compose(tmp_path / "run", tmp_path)(*FITTING, *overrides), tmp_path / "run" / "checkpoints" / "last.ckpt"
    )


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a checkpoint of the tiny model, of seed 0, with other settings."""

    def write(*overrides: str) -> Path:
        cfg = compose_config([*TINY, *overrides])
        OmegaConf.resolve(cfg)
        torch.manual_seed(0)
        clap = configured(cfg)
        content = {
            "state_dict": {f"model.{name}": tensor for name, tensor in clap.state_dict().items()},
            "atr": describe(cfg, clap, [], {}),
            "global_step": 0,
        }
        path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
        WholeFiles().save_checkpoint(content, path)
        return path

    return write


@pytest.fixture(scope="session")
def checkpoint(write: Callable[..., Path]) -> Path:
    return write()


@pytest.fixture
def model(checkpoint: Path) -> AudioTextModel:
    return atr.load(checkpoint)
