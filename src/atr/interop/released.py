"""What released CLAPs have in common: how one becomes a `Checkpoint`, whose configuration says what it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import atr
from atr.checkpoint import Checkpoint
from atr.errors import CheckpointError

MAX_TOKENS = 77  # LAION-CLAP's (`training/data.py`)
ROBERTA_BASE = {
    "model_type": "roberta", "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1,
    "hidden_act": "gelu",
}  # fmt: skip


def front_end(sample_rate: int = 48_000, fused: bool = False, **other: Any) -> dict[str, Any]:
    """`LogMel`'s arguments: LAION-CLAP's 10 ms steps, 64 bins, 50 to 14 000 Hz, where `other` says nothing else."""
    mel = {
        "_target_": "atr.models.mel.LogMel", "sample_rate": sample_rate, "seconds": 10.0, "n_fft": 1024,
        "hop": sample_rate // 100, "n_mels": 64, "frequency_min": 50.0, "frequency_max": 14_000.0, "floor": 1e-10,
    }  # fmt: skip
    return mel | ({"mel_scale": "htk"} if fused else {}) | other


def as_checkpoint(
    path: Path,
    kind: str,
    found: tuple[Mapping[str, Tensor], list[str]],
    mel: dict[str, Any],
    audio: dict[str, Any],
    text: dict[str, Any] | None = None,
    tokenizer: dict[str, str] | None = None,
    log_scale: float | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Checkpoint:
    """A released model as a checkpoint of this project.

    Args:
        path: where it lies, or its name on the hub.
        kind: `huggingface`, `laion` or `htsat`.
        found: the weights under our names, and theirs that have no place here.
        mel, audio: arguments of `LogMel` and `HTSAT`.
        text: configuration of the text encoder; None for an audio encoder alone.
        max_tokens: of a caption, if the tokenizer has a limit of its own; LAION-CLAP's 77 at most.
        tokenizer: files; None when it brings none, and `model.text.tokenizer.path` is to be used.

    Raises:
        CheckpointError: weights have no place here.
    """
    weights, unknown = found
    if unknown:
        raise CheckpointError(
            f"{path}: {len(unknown)} of its tensors have no place in atr's model (first: {unknown[0]}). It has another "
            "encoder or fusion than HTSAT (plain, or fused by aff_2d) beside RoBERTa; nothing of it was used"
        )
    model: dict[str, Any] = {"_target_": "atr.models.clap.Clap", "mel": mel, "audio": audio}
    if text is not None:
        model |= {"text": _text(path, text, max_tokens), "dim": _rows(weights, "audio_projection.2.weight", path)}
    config = DictConfig({"model": model})
    about: dict[str, Any] = {
        "format": kind, "version": atr.__version__, "config": OmegaConf.to_yaml(config), "text_config": text,
        "tokenizer": tokenizer, "labels": [], "data": {},
    }  # fmt: skip
    return Checkpoint(path, dict(weights), config, about, 0, log_scale)


def log_scale_in(state: Mapping[str, Tensor], path: Path) -> float | None:
    """The log of the logit scale, where there is one.

    Raises:
        CheckpointError: it is no single number.
    """
    scale = state.get("logit_scale_a")
    if scale is not None and scale.numel() != 1:
        raise CheckpointError(f"{path}: logit_scale_a has the shape {tuple(scale.shape)} instead of one number")
    return None if scale is None else float(scale)


def _text(path: Path, text: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """The `model.text` node. RoBERTa-base is called by its name, as in the configurations of training."""
    base = all(text[key] == value for key, value in ROBERTA_BASE.items())
    longest = text["max_position_embeddings"] - text["pad_token_id"] - 1  # RoBERTa counts from there
    tokenizer = {
        "_target_": "atr.models.text.Tokenizer",
        "path": "roberta-base" if base else str(path),
        "max_tokens": min(MAX_TOKENS, max_tokens, longest),
    }
    encoder = {"name": "roberta-base"} if base else {"config": text}
    return {"_target_": "atr.models.text.TextEncoder", **encoder, "pooling": "pooler", "tokenizer": tokenizer}


def _rows(weights: Mapping[str, Tensor], name: str, path: Path) -> int:
    if name not in weights:
        raise CheckpointError(f"{path}: {name} is missing among its {len(weights)} tensors; get the file again")
    return len(weights[name])
