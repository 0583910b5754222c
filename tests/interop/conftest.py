"""A checkpoint of the tiny model with random weights, as training writes it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import atr
from atr.checkpoint import describe
from atr.config import compose_config
from atr.inference import AudioTextModel
from atr.initialise import configured
from atr.tasks.files import WholeFiles
from tests.conftest import TINY


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
