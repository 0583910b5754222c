"""A `.ckpt` or its `.safetensors` -> a model. Files are read as tensors and plain values; nothing is executed."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open
from torch import Tensor

import atr
from atr.config import build
from atr.errors import CheckpointError
from atr.models.clap import Clap
from atr.models.text import TextEncoder, Tokenizer

FORMAT = 1
WEIGHTS = ".safetensors"  # beside each checkpoint: its model alone
PREFIX = "model."  # of the model's tensors in a `.ckpt`
SCALE = "loss.logit_scale"  # its logarithm, in a `.ckpt`
BUILT = (
    "atr.models.clap.Clap", "atr.models.mel.LogMel", "atr.models.htsat.HTSAT", "atr.models.htsat.SpecAugment",
    "atr.models.text.TextEncoder", "atr.models.text.Tokenizer",
)  # fmt: skip


@dataclass
class Checkpoint:
    """What a file holds: `weights` of the `Clap`, `config` of the run, `about` (see `describe`), optimizer steps.

    `log_scale` is the logarithm of the logit scale that cosines are multiplied by; None where the file has none.
    """

    path: Path
    weights: dict[str, Tensor]
    config: DictConfig
    about: dict[str, Any]
    step: int
    log_scale: float | None = None


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
        weights, about, step, log_scale = _weights_alone(path) if path.suffix == WEIGHTS else _of_training(path)
    except Exception as error:  # torch and safetensors raise many kinds; none of them is a checkpoint of ours
        raise CheckpointError(
            f"{path} is not a checkpoint of atr ({path.stat().st_size} bytes): it is cut off, of another kind, or "
            f"holds code. Give a .ckpt or .safetensors that `python train.py` wrote ({type(error).__name__})"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was not written by this version of atr: it has no `atr` entry of format {FORMAT}"
        )
    if "${" in about["config"]:  # training writes resolved configurations; an interpolation could hide what is built
        raise CheckpointError(f"{path}: its configuration holds interpolations; it was not written by atr")
    return Checkpoint(path, weights, DictConfig(OmegaConf.create(about["config"])), about, step, log_scale)


def _of_training(path: Path) -> tuple[dict[str, Tensor], Any, int, float | None]:
    """Weights, `atr` entry, step and log scale of a `.ckpt`; the weights are read from the file when they are used."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, dict) or "state_dict" not in content:
        return {}, None, 0, None
    state = content["state_dict"]
    weights = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    return weights, content.get("atr"), content.get("global_step", 0), float(state[SCALE]) if SCALE in state else None


def _weights_alone(path: Path) -> tuple[dict[str, Tensor], Any, int, float | None]:
    """Weights, `atr` entry, step and log scale of a `.safetensors`."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    log_scale = float(metadata["log_scale"]) if "log_scale" in metadata else None  # older files have none
    return weights, json.loads(metadata.get("atr", "null")), int(metadata.get("step", 0)), log_scale


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


def newest_checkpoint(folder: Path, runs: str = "*") -> Path | None:
    """The last step's checkpoint of the run that wrote last, among those that are whole; None where there is none.

    Args:
        folder: of the runs.
        runs: pattern of their names.
    """
    written: dict[Path, float] = {}
    for path in folder.glob(f"{runs}/checkpoints/*.ckpt"):
        with contextlib.suppress(FileNotFoundError):  # a run that is going on has replaced it by another
            written[path] = path.stat().st_mtime
    newest = {run: max(written[path] for path in written if path.parent == run) for run in {p.parent for p in written}}
    for run in sorted(newest, key=lambda run: newest[run], reverse=True):
        whole: list[Checkpoint] = []
        for path in (path for path in written if path.parent == run):
            with contextlib.suppress(CheckpointError):  # cut off, of another format, or no file at all
                whole.append(read_checkpoint(path))
        if whole:
            return max(whole, key=lambda one: (one.step, written[one.path])).path
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
