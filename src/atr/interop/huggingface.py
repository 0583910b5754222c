"""CLAP as `transformers` has it: folders of `ClapModel.save_pretrained`, and the same on the Hugging Face hub.

`config.json` says how the model is built, `preprocessor_config.json` (newer: `processor_config.json`) what it hears.
Settings that this project's model does not have must stand at the values that it computes with.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from atr.checkpoint import Checkpoint, read_tensors
from atr.errors import CheckpointError, UsageError
from atr.interop.released import MAX_TOKENS, as_checkpoint, front_end, log_scale_in
from atr.models.mapping import from_hf
from atr.models.text import Tokenizer

FILES = ["*.safetensors", "*.json", "*.txt"]  # no code and no pickles are fetched from the hub
WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"
BUILT_IN: dict[str, tuple[Any, ...]] = {  # of the audio encoder: what `models/htsat.py` computes with
    "hidden_act": ("gelu",),
    "patch_size": (4, [4, 4]),
    "patch_stride": (4, [4, 4]),
    "patch_embed_input_channels": (1,),
    "flatten_patch_embeds": (True,),
    "enable_patch_layer_norm": (True,),
    "qkv_bias": (True,),
    "mlp_ratio": (4,),
    "layer_norm_eps": (1e-5,),
    "fusion_type": (None, "aff_2d"),
    "aff_block_r": (4,),
    "projection_hidden_act": ("relu",),
}
HEARD = {  # of the feature extractor -> `LogMel`
    "feature_size": "n_mels",
    "sampling_rate": "sample_rate",
    "hop_length": "hop",
    "fft_window_size": "n_fft",
    "max_length_s": "seconds",
    "frequency_min": "frequency_min",
    "frequency_max": "frequency_max",
}
FLOATS = ("seconds", "frequency_min", "frequency_max")


def read_hub(name: str) -> Checkpoint:
    """A CLAP by its name on the hub, e.g. `laion/clap-htsat-unfused`.

    Raises:
        CheckpointError: there is no such model, no network and no copy of it, or it is no CLAP.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(snapshot_download(name, allow_patterns=FILES))
        if not (folder / WEIGHTS).is_file():
            folder = Path(snapshot_download(name, allow_patterns=[PICKLED]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{name} is no file or folder here, and no model of that name can be had from the Hugging Face hub "
            f"({str(error).splitlines()[0]}). Check the path; without a network, copy the model's folder and give that"
        ) from error
    checkpoint = read_folder(folder)
    checkpoint.about["revision"] = folder.name
    return replace(checkpoint, path=Path(name))


def read_folder(folder: Path) -> Checkpoint:
    """A CLAP as `ClapModel` and `ClapProcessor` save it.

    Raises:
        CheckpointError: the folder holds something else, is not complete, or its model computes something that this
            project's does not.
    """
    from transformers import ClapConfig

    content = _json(folder, "config.json")
    if content is None:
        found = [*folder.glob("*.ckpt"), *folder.glob("checkpoints/*.ckpt")]
        beside = sorted(path.relative_to(folder).as_posix() for path in found)
        raise CheckpointError(
            f"{folder} is a folder without config.json, so it is not a model of transformers"
            + (f"; give one of its checkpoints: {', '.join(beside)}" if beside else "; give the path of a checkpoint")
        )
    if (kind := content.get("model_type")) != "clap":
        raise CheckpointError(
            f"{folder} holds a model of type {kind!r}, not a CLAP. Give a folder of ClapModel ('clap'); a text encoder "
            "is given as model.text.name"
        )
    try:
        config = ClapConfig.from_dict(content).to_dict()
    except Exception as error:  # transformers checks the values, each kind by an error of its own
        raise CheckpointError(f"{folder}/config.json is not of a CLAP: {str(error).splitlines()[0]}") from error
    state = _tensors(folder)
    tokenizer = _tokenizer(folder, config["text_config"])
    return as_checkpoint(
        folder, "huggingface", from_hf(state), _mel(folder, config["audio_config"]), _audio(folder, config),
        _text(folder, config["text_config"]), tokenizer.files(),
        log_scale_in(state, folder), tokenizer.inner.model_max_length,
    )  # fmt: skip


def _json(folder: Path, name: str) -> dict[str, Any] | None:
    """A json file of the folder; None where there is none."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{folder / name} is no json file, or cut off ({error}); get it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / name} holds a {type(content).__name__} instead of settings; get it again")
    return content


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if path.is_file():
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} ({path.stat().st_size} bytes) is cut off or no safetensors file ({error}); get it again"
            ) from error
    if not (folder / PICKLED).is_file():
        raise CheckpointError(f"{folder} has neither {WEIGHTS} nor {PICKLED}; the model's weights are not there")
    content = read_tensors(folder / PICKLED)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{folder / PICKLED} holds something else than tensors by name; get it again")
    return content


def _audio(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """`HTSAT`'s arguments.

    Raises:
        CheckpointError: this project's model computes something else.
    """
    audio = config["audio_config"]
    for key, allowed in BUILT_IN.items():
        value = list(audio[key]) if isinstance(audio[key], tuple) else audio[key]
        if value not in allowed:
            raise CheckpointError(
                f"{folder}: audio_config.{key} is {value!r}; atr's audio encoder has "
                f"{' or '.join(repr(one) for one in allowed)}, and would compute something else"
            )
    return {
        "_target_": "atr.models.htsat.HTSAT",
        "n_mels": audio["num_mel_bins"],
        "picture_size": audio["spec_size"],
        "embed_dim": audio["patch_embeds_hidden_size"],
        "depths": list(audio["depths"]),
        "heads": list(audio["num_attention_heads"]),
        "window": audio["window_size"],
    } | ({"fusion": True} if audio["enable_fusion"] else {})


def _mel(folder: Path, audio: dict[str, Any]) -> dict[str, Any]:
    """`LogMel`'s arguments.

    Raises:
        CheckpointError: the feature extractor is another one, or made for models with fusion while this has none, or
            the other way round.
    """
    heard = _json(folder, "preprocessor_config.json")
    if heard is None:
        heard = (_json(folder, "processor_config.json") or {}).get("feature_extractor")
    fused = bool(audio["enable_fusion"])
    if heard is None:
        warnings.warn(
            f"{folder} has no preprocessor_config.json: LAION's front end is taken (48 kHz, 50 to 14 000 Hz). "
            "ClapFeatureExtractor() itself begins at 0 Hz, which gives other embeddings",
            stacklevel=2,
        )
        return front_end(fused=fused)
    if (kind := heard.get("feature_extractor_type", "ClapFeatureExtractor")) != "ClapFeatureExtractor":
        raise CheckpointError(f"{folder}: its feature extractor is a {kind}; atr knows ClapFeatureExtractor")
    from transformers import ClapFeatureExtractor

    # What is not written stands at the defaults of transformers, e.g. frequency_min at 0.
    settings = {key: heard[key] for key in (*HEARD, "truncation", "padding") if key in heard}
    wrong = [key for key in HEARD if not isinstance(settings.get(key, 0), int | float)]
    if wrong:
        raise CheckpointError(
            f"{folder}: {wrong[0]} of its feature extractor is {settings[wrong[0]]!r}, not a number; get it again"
        )
    extractor = ClapFeatureExtractor(**settings)
    if (extractor.truncation == "fusion") != fused:
        raise CheckpointError(
            f"{folder}: the feature extractor's truncation is {extractor.truncation!r}, but the model's enable_fusion "
            f"is {fused}. With truncation {'fusion' if fused else 'rand_trunc'} in preprocessor_config.json they go "
            "together, if the model was trained so"
        )
    if extractor.padding != "repeatpad":
        warnings.warn(
            f"{folder} fills short clips by {extractor.padding!r}, atr by 'repeatpad': their embeddings differ",
            stacklevel=2,
        )
    found = {ours: getattr(extractor, theirs) for theirs, ours in HEARD.items()}
    if found["n_mels"] != audio["num_mel_bins"]:
        raise CheckpointError(
            f"{folder}: the feature extractor's feature_size is {found['n_mels']}, but the model's num_mel_bins is "
            f"{audio['num_mel_bins']}; they do not belong together"
        )
    return front_end(fused=fused, **found | {name: float(found[name]) for name in FLOATS})


def _text(folder: Path, text: dict[str, Any]) -> dict[str, Any]:
    """The text encoder as a RoBERTa's configuration, which it is, with the same layer-norm eps."""
    if (kind := text.get("position_embedding_type", "absolute")) != "absolute":
        raise CheckpointError(f"{folder}: text_config.position_embedding_type is {kind!r}; atr knows 'absolute'")
    if text["projection_hidden_act"] != "relu":
        raise CheckpointError(
            f"{folder}: projection_hidden_act is {text['projection_hidden_act']!r}; atr's projections have 'relu'"
        )
    keys = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
        "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
        "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id",
    )  # fmt: skip
    return {"model_type": "roberta"} | {key: text[key] for key in keys}


def _tokenizer(folder: Path, text: dict[str, Any]) -> Tokenizer:
    """The folder's tokenizer."""
    advice = f"{folder}: its tokenizer cannot be read; tokenizer.json, or vocab.json and merges.txt, belong there"
    if not ((folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()):  # else it would be empty
        raise CheckpointError(advice)
    try:
        tokenizer = Tokenizer(str(folder), MAX_TOKENS)
    except UsageError as error:
        raise CheckpointError(f"{advice} ({error})") from error
    if len(tokenizer) > text["vocab_size"]:
        raise CheckpointError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens, its text encoder {text['vocab_size']}; they do not "
            "belong together"
        )
    return tokenizer
