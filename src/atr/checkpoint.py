"""A `.ckpt` -> a model. Files are read as tensors and plain values only; nothing in them is executed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import atr
from atr.config import build
from atr.errors import CheckpointError
from atr.models.clap import Clap
from atr.models.text import TextEncoder, Tokenizer

FORMAT = 1
BUILT = (
    "atr.models.clap.Clap", "atr.models.mel.LogMel", "atr.models.htsat.HTSAT", "atr.models.htsat.SpecAugment",
    "atr.models.text.TextEncoder", "atr.models.text.Tokenizer",
)  # fmt: skip


@dataclass
class Checkpoint:
    """What a file holds: `weights` of the `Clap`, `config` of the run, and `about` (see `describe`)."""

    path: Path
    weights: dict[str, Tensor]
    config: DictConfig
    about: dict[str, Any]


def describe(cfg: DictConfig, model: Clap, labels: list[str], data: dict[str, Any]) -> dict[str, Any]:
    """What a training run puts into its checkpoints beside the weights: plain values only.

    Args:
        cfg: resolved.
        labels: of the training data.
        data: folder -> its shards' hash and size.
    """
    return {
        "format": FORMAT,
        "version": atr.__version__,
        "config": OmegaConf.to_yaml(cfg),
        "text_config": model.text.config(),
        "tokenizer": model.text.tokenizer.files(),
        "labels": labels,
        "data": data,
    }


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint of this project.

    Raises:
        CheckpointError: there is no such file, it is cut off, or it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = f"; checkpoints beside it: {', '.join(beside)}" if beside else "; train one with `python train.py`"
        raise CheckpointError(f"{path} is not there{hint}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; none of them is a checkpoint of ours
        raise CheckpointError(
            f"{path} is not a checkpoint of atr ({path.stat().st_size} bytes): it is cut off, of another kind, or "
            f"holds code. Give a .ckpt that `python train.py` wrote ({type(error).__name__})"
        ) from error
    about = content.get("atr") if isinstance(content, dict) else None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was not written by this version of atr: it has no `atr` entry of format {FORMAT}"
        )
    if "${" in about["config"]:  # training writes resolved configurations; an interpolation could hide what is built
        raise CheckpointError(f"{path}: its configuration holds interpolations; it was not written by atr")
    prefix = "model."
    weights = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    return Checkpoint(path, weights, DictConfig(OmegaConf.create(about["config"])), about)


def build_model(checkpoint: Checkpoint, config: DictConfig | None = None) -> Clap:
    """Builds a model and loads the checkpoint's weights into it, all of them.

    Arguments as for `build_architecture`.

    Raises:
        CheckpointError: its configuration names code outside `atr.models`, or weights are missing or left over.
    """
    model = build_architecture(checkpoint, config)
    load_weights(model, checkpoint)
    return model.eval()


def build_architecture(checkpoint: Checkpoint, config: DictConfig | None = None) -> Clap:
    """Builds a checkpoint's model with random weights.

    Args:
        config: the `model` part of a configuration; the checkpoint's own when None. The text encoder's
            architecture and the tokenizer always come from the checkpoint, so that nothing is downloaded.

    Raises:
        CheckpointError: its configuration names code outside `atr.models`.
    """
    if config is None:
        config = checkpoint.config.model
        for target in _targets(OmegaConf.to_container(config)):
            if target not in BUILT:
                raise CheckpointError(
                    f"{checkpoint.path} asks for {target!r}; from a file only these are built: {BUILT}"
                )
    tokenizer = Tokenizer.from_files(checkpoint.about["tokenizer"], config.text.tokenizer.max_tokens)
    text = TextEncoder(tokenizer, config=checkpoint.about["text_config"], pooling=config.text.pooling)
    parts = OmegaConf.create({name: value for name, value in config.items() if name != "text"})
    model: Clap = build(parts, text=text)
    return model


def load_weights(model: Clap, checkpoint: Checkpoint) -> None:
    """Loads all weights of a checkpoint into a model of the same architecture.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape; the model is then unchanged.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - checkpoint.weights.keys())
    unknown = sorted(checkpoint.weights.keys() - own.keys())
    shapes = [k for k in own.keys() & checkpoint.weights.keys() if own[k].shape != checkpoint.weights[k].shape]
    if missing or unknown or shapes:
        first = (missing + unknown + sorted(shapes))[0]
        raise CheckpointError(
            f"{checkpoint.path} holds another architecture: {len(missing)} tensors missing, {len(unknown)} left over, "
            f"{len(shapes)} of another shape (first: {first}). Choose the model it was trained with "
            f"(model/audio=…, model/text=…, model.dim=…)"
        )
    model.load_state_dict(checkpoint.weights)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest readable `.ckpt` under a folder of runs, or None."""
    for path in sorted(folder.glob("*/checkpoints/*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            read_checkpoint(path)
        except CheckpointError:
            continue  # a write that was cut off; an older one is whole
        return path
    return None


def _targets(node: Any) -> Iterator[str]:
    """Every `_target_` in plain dicts and lists."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)
