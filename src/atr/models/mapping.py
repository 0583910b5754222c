"""The names of a `Clap`'s tensors in Hugging Face's `ClapModel` and in LAION-CLAP's checkpoints.

Three things differ beside names: timm, and so this project, puts the patch merging at the beginning of a stage and
the two others at the end of the one before; `ClapModel` keeps queries, keys and values apart; and each stores some
buffers that are computed. Sources: LAION-AI/CLAP at 1fd4c37 (`clap_module/htsat.py`, `clap_module/model.py`, also the
layout of Auto-ACD's files), `transformers` 5.23 (`models/clap/modeling_clap.py`).
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

QKV = ("query", "key", "value")  # in the order in which they stand in one tensor
Names = Sequence[tuple[str, str]]

# Ours -> theirs, each a prefix or a part of a name. The order matters in neither direction.
BLOCK_HF: Names = (
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.relative_position_bias_table", ".attention.self.relative_position_bias_table"),
    (".attn.proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)
PREFIX_HF: Names = (
    ("audio.mel_norm.", "audio_model.audio_encoder.batch_norm."),
    ("audio.patch_embed.", "audio_model.audio_encoder.patch_embed.proj."),
    ("audio.patch_norm.", "audio_model.audio_encoder.patch_embed.norm."),
    ("audio.local_patch_embed.", "audio_model.audio_encoder.patch_embed.mel_conv2d."),
    ("audio.fusion.", "audio_model.audio_encoder.patch_embed.fusion_model."),
    ("audio.layers.", "audio_model.audio_encoder.layers."),
    ("audio.norm.", "audio_model.audio_encoder.norm."),
    ("text.inner.", "text_model."),
    ("audio_projection.0.", "audio_projection.linear1."),
    ("audio_projection.2.", "audio_projection.linear2."),
    ("text_projection.0.", "text_projection.linear1."),
    ("text_projection.2.", "text_projection.linear2."),
)
PREFIX_LAION: Names = (
    ("audio.mel_norm.", "audio_branch.bn0."),
    ("audio.patch_embed.", "audio_branch.patch_embed.proj."),
    ("audio.patch_norm.", "audio_branch.patch_embed.norm."),
    ("audio.local_patch_embed.", "audio_branch.patch_embed.mel_conv2d."),
    ("audio.fusion.", "audio_branch.patch_embed.fusion_model."),
    ("audio.layers.", "audio_branch.layers."),
    ("audio.norm.", "audio_branch.norm."),
    ("text.inner.", "text_branch."),
    ("audio_projection.", "audio_projection."),
    ("text_projection.", "text_projection."),
)
DOWNSAMPLE = re.compile(r"(?<=\.layers\.)(\d+)(?=\.downsample\.)")
LAYER_PART = re.compile(r"(?<=\.layers\.)(\d+)(\.blocks\.\d+)(\..+)")

# What they store and we compute, or do not have. Anything else that is not mapped is an error.
BUFFERS_HF = re.compile(
    r"audio_model\.audio_encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\.relative_position_index"
    r"|text_model\.embeddings\.(position_ids|token_type_ids)"
)
SCALES = re.compile(r"logit_scale_[at]")  # part of the loss here
DROPPED_LAION = re.compile(
    r"audio_branch\.(spectrogram_extractor|logmel_extractor)\..+"  # the front end, as constants
    r"|audio_branch\.(tscam_conv|head)\..+"  # AudioSet's labels; the contrastive loss gives them no gradient
    r"|audio_branch\.layers\.\d+\.blocks\.\d+\.(attn\.relative_position_index|attn_mask)"
    r"|text_branch\.embeddings\.(position_ids|token_type_ids)"
    r"|(audio|text)_transform\..+"  # of the optional "MLP loss"
)


def to_hf(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `Clap`'s state dict -> `ClapModel`'s, without its buffers and logit scales.

    Raises:
        KeyError: a tensor has no place there, e.g. of a text encoder that is no RoBERTa.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = _moved(_prefixed(key, PREFIX_HF), -1)
        if ".attn.qkv." in name:
            for own, part in zip(QKV, value.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".attention.self.{own}.")] = part
        else:
            renamed[_in_block(name, BLOCK_HF)] = value
    return renamed


def from_hf(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """`ClapModel`'s state dict -> a `Clap`'s, and the names that belong nowhere, which should be none.

    Known buffers and the logit scales are left out.
    """
    back, block_back = _inverse(PREFIX_HF), _inverse(BLOCK_HF)
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in weights.items():
        if BUFFERS_HF.fullmatch(key) or SCALES.fullmatch(key):
            continue
        try:
            renamed[_in_block(_moved(_prefixed(key, back), 1), block_back)] = value
        except KeyError:
            unknown.append(key)
    for key in [key for key in renamed if key.startswith("audio.") and ".attention.self.query." in key]:
        parts = [key.replace(".query.", f".{own}.") for own in QKV]
        if all(part in renamed for part in parts):  # else they are left over
            joined = torch.cat([renamed.pop(part) for part in parts])
            renamed[key.replace(".attention.self.query.", ".attn.qkv.")] = joined
    return renamed, unknown


def to_laion(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `Clap`'s state dict -> the names of LAION's files, with their `module.`."""
    return {f"module.{_moved(_prefixed(key, PREFIX_LAION), -1)}": value for key, value in weights.items()}


def from_laion(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """LAION's state dict -> a `Clap`'s, and the names that belong nowhere, which should be none."""
    back = _inverse(PREFIX_LAION)
    renamed: dict[str, Tensor] = {}
    unknown = []
    for full, value in weights.items():
        key = full.removeprefix("module.")
        if DROPPED_LAION.fullmatch(key) or SCALES.fullmatch(key):
            continue
        try:
            renamed[_moved(_prefixed(key, back), 1)] = value
        except KeyError:
            unknown.append(full)
    return renamed, unknown


def _prefixed(key: str, names: Names) -> str:
    for before, after in names:
        if key.startswith(before):
            return after + key.removeprefix(before)
    raise KeyError(key)


def _moved(key: str, by: int) -> str:
    """Patch merging belongs to the stage it begins, or to the one it ends."""
    return DOWNSAMPLE.sub(lambda found: str(int(found[1]) + by), key)


def _in_block(key: str, names: Names) -> str:
    """Renames within a Swin block; text layers have names of their own."""

    def rename(found: re.Match[str]) -> str:
        for before, after in names:
            if found[3].startswith(before):
                return found[1] + found[2] + after + found[3].removeprefix(before)
        return found[0]

    return LAYER_PART.sub(rename, key)


def _inverse(names: Names) -> Names:
    return [(after, before) for before, after in names]
