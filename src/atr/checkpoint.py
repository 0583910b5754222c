"""A `.ckpt` or its `.safetensors` -> a model. Files are read as tensors and plain values; nothing is executed."""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from torch import Tensor

import atr
from atr.config import build
from atr.errors import CheckpointError, UsageError
from atr.frozen import read_frozen
from atr.models.clap import Clap
from atr.models.text import TextEncoder, Tokenizer

FORMAT = 1
CLAP = "clap."  # of a captioner's contrastive model among its tensors
WEIGHTS = ".safetensors"  # beside each checkpoint: its model alone
PREFIX = "model."  # of the model's tensors in a `.ckpt`
SCALE = "loss.logit_scale"  # its logarithm, in a `.ckpt`
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", WEIGHTS)  # of files: such a name is not looked for on the hub
# The one value in released checkpoints that is neither tensor nor plain: a NumPy number (the best metric), which
# NumPy 1 and 2 write under two names. It runs no code from the file.
SCALAR: Any = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    (SCALAR, "numpy._core.multiarray.scalar"), (SCALAR, "numpy.core.multiarray.scalar"), np.dtype,
    np.dtypes.Float64DType,
]  # fmt: skip
ABOUT = ("config", "text_config", "tokenizer", "labels", "data")  # which `describe` writes
BUILT = (
    "atr.models.clap.Clap", "atr.models.mel.LogMel", "atr.models.htsat.HTSAT", "atr.models.htsat.SpecAugment",
    "atr.models.text.TextEncoder", "atr.models.text.Tokenizer",
)  # fmt: skip


@dataclass
class Checkpoint:
    """What a file holds: `weights` of the `Clap`, `config` of the run, `about` (see `describe`), optimizer steps.

    `log_scale` is the logarithm of the logit scale that cosines are multiplied by; None where the file has none.
    `captioner` are the tensors of a captioner's mapping and language model; of any other checkpoint None.
    """

    path: Path
    weights: dict[str, Tensor]
    config: DictConfig
    about: dict[str, Any]
    step: int
    log_scale: float | None = None
    captioner: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        """Refuses a configuration that does not stand there as it is, but is made when it is read.

        What is built is compared with `BUILT`, and an interpolation (`${oc.create:…}`) could hide it. Training writes
        resolved configurations. Looked at after parsing: YAML has other ways to write a dollar.

        Raises:
            CheckpointError: there is an interpolation, or no model.
        """
        if found := [text for text in _texts(OmegaConf.to_container(self.config)) if "${" in text]:
            raise CheckpointError(f"{self.path}: its settings hold interpolations ({found[0][:60]}); it is not trusted")
        if not isinstance(self.config.get("model"), DictConfig):
            raise CheckpointError(f"{self.path}: its configuration has no `model`; it was not written by atr")


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
    """Reads a model: a checkpoint of this project, or a released one.

    A captioning checkpoint is read together with `frozen.safetensors` beside it (`atr.frozen`). So it holds the
    contrastive model, too, and does all that this one does.

    Args:
        path: a `.ckpt` or `.safetensors` of this project; a folder of `transformers`' `ClapModel`, or its name on the
            Hugging Face hub (`laion/clap-htsat-unfused`); a `.pt` of LAION-CLAP or Auto-ACD; an audio encoder alone of
            HTS-Audio-Transformer.

    Raises:
        CheckpointError: there is no such file, it is cut off, or it holds something else.
    """
    name, path = str(path), Path(path)
    if path.is_dir():
        from atr.interop.huggingface import read_folder

        return read_folder(path)
    if not path.is_file():
        if HUB_NAME.fullmatch(name) and path.suffix not in SUFFIXES:
            from atr.interop.huggingface import read_hub

            return read_hub(name)
        beside = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = f"; checkpoints beside it: {', '.join(beside)}" if beside else "; train one with `python train.py`"
        raise CheckpointError(f"{path} is not there{hint}")
    if path.suffix == WEIGHTS:
        weights, about, step, log_scale = _weights_alone(path)
    else:
        content = read_tensors(path)
        if not isinstance(content, dict) or "atr" not in content:
            from atr.interop.laion import read_laion

            return read_laion(path, content)
        weights, about, step, log_scale = _of_training(path, content)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was not written by this version of atr: it has no `atr` entry of format {FORMAT}"
            + ("; of a Hugging Face model give the whole folder" if (path.parent / "config.json").is_file() else "")
        )
    if lacking := [name for name in ABOUT if name not in about]:
        raise CheckpointError(f"{path}: its `atr` entry lacks {', '.join(lacking)}; it was not written by atr")
    try:
        config = DictConfig(OmegaConf.create(str(about["config"])))
    except Exception as error:  # YAML's errors and OmegaConf's are of many kinds
        raise CheckpointError(f"{path}: its configuration cannot be read; it was not written by atr") from error
    if "captioner" not in about:
        return Checkpoint(path, weights, config, about, step, log_scale)
    weights |= read_frozen(path, str(about["captioner"]["frozen"]))
    clap = {name.removeprefix(CLAP): value for name, value in weights.items() if name.startswith(CLAP)}
    captioner = {name: value for name, value in weights.items() if not name.startswith(CLAP)}
    return Checkpoint(path, clap, config, about, step, about["captioner"]["log_scale"], captioner)


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote: tensors, dicts, lists and plain values. Tensors stay in the file until they are used.

    Raises:
        CheckpointError: the file is cut off, of another kind, or holds code.
    """
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # torch raises many kinds
        code = re.search(r"GLOBAL (\S+) (?:was|whose)", str(error))
        raise _unreadable(path, code[1] if code else "") from error


def _unreadable(path: Path, code: str = "") -> CheckpointError:
    what = f"it asks to run {code}, which was not done" if code else "it is cut off, of another kind, or holds code"
    return CheckpointError(
        f"{path} is not a checkpoint of atr ({path.stat().st_size} bytes): {what}. Give a .ckpt or .safetensors that "
        "`python train.py` wrote, a folder of ClapModel, or a .pt of LAION-CLAP"
    )


def _of_training(path: Path, content: dict[str, Any]) -> tuple[dict[str, Tensor], Any, int, float | None]:
    """Weights, `atr` entry, step and log scale of a `.ckpt`."""
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} has no weights: its `state_dict` is {type(state).__name__}; get it again")
    weights = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    return weights, content["atr"], content.get("global_step", 0), float(state[SCALE]) if SCALE in state else None


def _weights_alone(path: Path) -> tuple[dict[str, Tensor], Any, int, float | None]:
    """Weights, `atr` entry, step and log scale of a `.safetensors`."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        log_scale = float(metadata["log_scale"]) if "log_scale" in metadata else None  # older files have none
        return weights, json.loads(metadata.get("atr", "null")), int(metadata.get("step", 0)), log_scale
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path) from error


def build_model(checkpoint: Checkpoint, config: DictConfig | None = None) -> Clap:
    """Builds a model and loads the checkpoint's weights into it, all of them.

    Arguments as for `build_architecture`.

    Raises:
        CheckpointError: its configuration names code outside `atr.models`, or weights are missing or left over.
    """
    try:
        model = build_architecture(checkpoint, config)
    except CheckpointError:
        raise
    except Exception as error:  # Hydra's, torch's and those of transformers, each of another kind
        if config is not None:
            raise
        raise CheckpointError(
            f"{checkpoint.path}: no model can be built of its settings ({str(error).splitlines()[0]}); get it again"
        ) from error
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
    if "text" not in checkpoint.config.model:
        raise CheckpointError(
            f"{checkpoint.path} holds an audio encoder alone, which knows no text. Train a model that begins with it: "
            f"init={checkpoint.path}"
        )
    tokenizer = tokenizer_of(checkpoint, config)
    text = TextEncoder(tokenizer, config=checkpoint.about["text_config"], pooling=config.text.pooling)
    parts = OmegaConf.create({name: value for name, value in config.items() if name != "text"})
    model: Clap = build(parts, text=text)
    return model


def use_tokenizer(checkpoint: Checkpoint, tokenizer: str | Path | None) -> None:
    """Names a tokenizer, a folder or hub name, for a checkpoint that carries none; None changes nothing.

    Raises:
        UsageError: the checkpoint brings its own.
    """
    if tokenizer is None or "text" not in checkpoint.config.model:
        return
    if checkpoint.about["tokenizer"] is not None:
        raise UsageError(f"{checkpoint.path} brings its own tokenizer; leave tokenizer={tokenizer} out")
    OmegaConf.update(checkpoint.config, "model.text.tokenizer.path", str(tokenizer))


def tokenizer_of(checkpoint: Checkpoint, model: DictConfig | None = None) -> Tokenizer:
    """The tokenizer that a checkpoint carries; LAION's carry none, and `model.text.tokenizer.path` names theirs.

    Args:
        model: the `model` part of a configuration; the checkpoint's own when None.

    Raises:
        CheckpointError: it carries none, and the one that is named cannot be had, or is of another vocabulary.
    """
    settings = (checkpoint.config.model if model is None else model).text.tokenizer
    if checkpoint.about["tokenizer"] is not None:
        return Tokenizer.from_files(checkpoint.about["tokenizer"], settings.max_tokens)
    missing = (
        f"{checkpoint.path} carries no tokenizer. Give a folder with roberta-base's (tokenizer.json and "
        "tokenizer_config.json; on a machine with a network: hf download roberta-base --include '*.json'): "
        "tokenizer=FOLDER for atr.load, model.text.tokenizer.path=FOLDER for training; for the other verbs once "
        f"`atr export {checkpoint.path} --to hf DIR --tokenizer FOLDER`, and then DIR"
    )
    try:
        tokenizer = Tokenizer(settings.path, settings.max_tokens)
    except UsageError as error:
        raise CheckpointError(f"{missing} ({error})") from error
    if len(tokenizer) != (words := checkpoint.about["text_config"]["vocab_size"]):
        raise CheckpointError(f"{missing} ({settings.path} has {len(tokenizer)} tokens, the text encoder {words})")
    return tokenizer


def load_weights(model: Clap, checkpoint: Checkpoint, advice: str = "") -> None:
    """Loads all weights of a checkpoint into a model of the same architecture.

    Of a checkpoint with an audio encoder alone the other towers stay as they are.

    Args:
        advice: what to do when they do not fit.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape; the model is then unchanged.
    """
    held = {tower_of(key) for key in checkpoint.weights} if "text" not in checkpoint.config.model else None
    own = {key: value for key, value in model.state_dict().items() if held is None or tower_of(key) in held}
    missing = sorted(own.keys() - checkpoint.weights.keys())
    unknown = sorted(checkpoint.weights.keys() - own.keys())
    shapes = [k for k in own.keys() & checkpoint.weights.keys() if own[k].shape != checkpoint.weights[k].shape]
    if missing or unknown or shapes:
        first = (missing + unknown + sorted(shapes))[0]
        raise CheckpointError(
            f"{checkpoint.path} holds another architecture: {len(missing)} tensors missing, {len(unknown)} left over, "
            f"{len(shapes)} of another shape (first: {first}). "
            + (advice or "It does not say itself how it is built, or is not complete; get the file again")
        )
    model.load_state_dict(checkpoint.weights, strict=held is None)


def tower_of(key: str) -> str:
    """`audio.norm.weight` -> `audio`."""
    return key.partition(".")[0]


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


def _texts(node: Any) -> Iterator[str]:
    """Every text in plain dicts and lists, keys too."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for one in [*node, *node.values()] if isinstance(node, dict) else node:
            yield from _texts(one)
