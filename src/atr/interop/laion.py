"""LAION-CLAP's and Auto-ACD's `.pt`, and the audio encoders of HTS-Audio-Transformer.

All hold an HTSAT under the same names (LAION-AI/CLAP at 1fd4c37). What they leave out is how it was built: that is
read off the tensors' shapes, and the front end off the mel filterbank that they store.
"""

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atr.checkpoint import FORMAT, Checkpoint
from atr.errors import CheckpointError
from atr.interop.released import as_checkpoint, front_end, log_scale_in
from atr.models.mapping import from_laion

AUDIO_ALONE = "sed_model."  # HTS-Audio-Transformer's prefix; the names behind it are LAION's of `audio_branch.`
FILTERBANK = "audio_branch.logmel_extractor.melW"
RATES = (48_000, 32_000)  # Hz: LAION-CLAP's, HTS-Audio-Transformer's
# Filterbank weights are at most 0.018. transformers' own computation of the same filters differs by 2e-9; with
# frequency_min 0 instead of 50 they differ by 0.016, at 44.1 instead of 48 kHz by 0.018.
SAME_FILTER = 1e-6
HEAD_WIDTH = 64  # of RoBERTa's attention heads, in all sizes
PICTURE = 256  # side, in all released models; no tensor tells it


def read_laion(path: Path, content: Any) -> Checkpoint:
    """What `torch.load` found in a file -> a checkpoint.

    Raises:
        CheckpointError: it is of none of these projects, or of another architecture.
    """
    state = _state(content)
    if not any(key.startswith("audio_branch.") for key in state):
        raise CheckpointError(
            f"{path} is not a checkpoint of atr (it has no `atr` entry of format {FORMAT}), of LAION-CLAP, Auto-ACD or "
            f"HTSAT: it holds {_what(content)}"
        )
    rate = _sample_rate(path, state)
    weights, unknown = from_laion(state)
    fused = any(key.startswith("audio.fusion.") for key in weights)
    alone = not any(key.startswith("text_") for key in state)
    try:
        audio = _audio(weights) | ({"fusion": True} if fused else {})
        text = None if alone else _text(path, weights)
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{path} holds no whole HTSAT and RoBERTa: {error} is missing, or has another shape. It is of another "
            "architecture, or not complete"
        ) from error
    return as_checkpoint(
        path, "htsat" if alone else "laion", (weights, unknown), front_end(rate, fused, n_mels=audio["n_mels"]), audio,
        text, log_scale=log_scale_in(state, path),
    )  # fmt: skip


def _state(content: Any) -> dict[str, Tensor]:
    """The tensors under LAION's names, without `module.`; none where there are no such."""
    if not isinstance(content, dict):
        return {}
    inner = content.get("state_dict", content)
    if not isinstance(inner, dict) or not all(isinstance(value, Tensor) for value in inner.values()):
        return {}
    names = {key: str(key).removeprefix("module.") for key in inner}
    return {re.sub(f"^{re.escape(AUDIO_ALONE)}", "audio_branch.", name): inner[key] for key, name in names.items()}


def _what(content: Any) -> str:
    """A file's content in words."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    inner = content.get("state_dict", content)
    names = list(inner) if isinstance(inner, dict) else []
    return f"{len(names)} entries" + (f", the first is {names[0]!r}" if names else "")


def _audio(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """`HTSAT`'s arguments.

    Raises:
        KeyError: a tensor that tells one is not there. IndexError: it has too few dimensions.
    """
    blocks = [re.fullmatch(r"audio\.layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight", key) for key in weights]
    stages = [int(found[1]) for found in blocks if found]
    tables = [
        weights[f"audio.layers.{stage}.blocks.0.attn.relative_position_bias_table"]
        for stage in range(max(stages, default=0) + 1)
    ]
    return {
        "_target_": "atr.models.htsat.HTSAT",
        "n_mels": weights["audio.mel_norm.weight"].shape[0],
        "picture_size": PICTURE,
        "embed_dim": weights["audio.patch_embed.weight"].shape[0],
        "depths": [stages.count(stage) for stage in range(len(tables))],
        "heads": [table.shape[1] for table in tables],
        "window": (isqrt(tables[0].shape[0]) + 1) // 2,
    }


def _text(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration of the RoBERTa.

    Raises:
        KeyError, IndexError: as `_audio`.
        CheckpointError: the text encoder is another one.
    """
    inner = "text.inner."
    vocabulary, width = weights[f"{inner}embeddings.word_embeddings.weight"].shape[:2]
    kinds = weights[f"{inner}embeddings.token_type_embeddings.weight"].shape[0]
    if kinds != 1 or width % HEAD_WIDTH:
        raise CheckpointError(
            f"{path}: its text encoder is no RoBERTa ({kinds} kinds of tokens, {vocabulary} words, width {width}); "
            "with LAION's other text encoders (BERT, BART, CLIP's) atr cannot use it"
        )
    layers = {found[1] for key in weights if (found := re.match(rf"{re.escape(inner)}encoder\.layer\.(\d+)\.", key))}
    return {
        "model_type": "roberta",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // HEAD_WIDTH,
        "intermediate_size": weights[f"{inner}encoder.layer.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": weights[f"{inner}embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": kinds,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,  # roberta-base's; ClapTextConfig has 1e-12
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def _sample_rate(path: Path, state: Mapping[str, Tensor]) -> int:
    """The rate in Hz for which the stored mel filterbank, float32 `(513, 64)`, was made.

    Fused models store it, too, though they listen through another one.

    Raises:
        CheckpointError: it is none that this project's front end computes.
    """
    from librosa.filters import mel  # slow to import

    default = RATES[0] if any(key.startswith("text_") for key in state) else RATES[1]
    if FILTERBANK not in state:
        return default
    stored = state[FILTERBANK].float()
    difference = float("nan")
    for rate in RATES:
        bank = torch.from_numpy(mel(sr=rate, n_fft=1024, n_mels=64, fmin=50, fmax=14_000).T.copy())
        if stored.shape == bank.shape:
            difference = float((stored - bank).abs().max())
            if difference <= SAME_FILTER:
                return rate
    raise CheckpointError(
        f"{path}: its mel filterbank ({FILTERBANK.removeprefix('audio_branch.')}, {tuple(stored.shape)}, difference "
        f"{difference:.1e}) is not the one of 64 Slaney bins, 50 to 14 000 Hz at {' or '.join(map(str, RATES))} Hz; "
        "its embeddings would be wrong here"
    )
