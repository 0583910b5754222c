"""A captioner from its configuration, and from a checkpoint."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from atr.checkpoint import Checkpoint, build_model
from atr.config import build
from atr.errors import CheckpointError, UsageError
from atr.frozen import content_hash
from atr.models.captioner import Captioner, MlpMapping, TransformerMapping, feature_dim, frames_of
from atr.models.clap import Clap
from atr.models.language import CaptionTokenizer, config_of, language_model

MAPPINGS = {f"{kind.__module__}.{kind.__name__}": kind for kind in (MlpMapping, TransformerMapping)}


def build_captioner(clap: Clap, config: DictConfig) -> Captioner:
    """A captioner as the `captioner` part of a configuration has it.

    Its mapping has random weights, its language model published or random ones.

    Raises:
        UsageError: a value has no meaning, or the language model cannot be loaded.
    """
    settings = config.language_model
    tokenizer: CaptionTokenizer = build(settings.tokenizer)
    parts = OmegaConf.create({name: value for name, value in settings.items() if name != "tokenizer"})
    return _assembled(clap, config, tokenizer, build(parts, tokenizer=tokenizer))


def _assembled(clap: Clap, config: DictConfig, tokenizer: CaptionTokenizer, language: Any) -> Captioner:
    kind = MAPPINGS.get(config.mapping._target_)
    if kind is None:
        raise UsageError(f"captioner.mapping is {config.mapping._target_}; allowed: {', '.join(MAPPINGS)}")
    if config.temporal and kind is MlpMapping:
        raise UsageError("captioner.temporal=true needs captioner/mapping=transformer, which takes a clip's frames")
    along_time = {"frames": frames_of(clap)} if config.temporal else {}
    dim, width = feature_dim(clap, config.temporal), language.config.n_embd
    # Without Hydra, which would also build what stands within the values: they may come from a file.
    settings = {str(name): value for name, value in config.mapping.items() if name != "_target_"}
    if odd := [name for name, value in settings.items() if not isinstance(value, int | None)]:
        raise UsageError(f"captioner.mapping.{odd[0]} is {settings[odd[0]]!r}; allowed: a number")
    mapping: nn.Module = kind(dim=dim, width=width, **settings, **along_time)
    return Captioner(clap, mapping, language, tokenizer, config.temporal)


def tensors_of(captioner: Captioner) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A captioner's tensors by name: those that are trained, and those that are frozen.

    A tensor with two names (GPT-2's words, which are its output layer, too) is there by the first one.
    """
    trained: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    known = set[int]()
    for name, tensor in captioner.state_dict(keep_vars=True).items():
        if id(tensor) not in known:
            known.add(id(tensor))
            (trained if tensor.requires_grad else frozen)[name] = tensor
    return trained, frozen


def describe_captioner(captioner: Captioner, log_scale: float | None) -> dict[str, Any]:
    """What a captioning run puts into its checkpoints beside `atr.checkpoint.describe`'s: plain values only.

    Args:
        log_scale: of the contrastive model.
    """
    return {
        "language_config": config_of(captioner.language_model),
        "tokenizer": captioner.tokenizer.files(),
        "frozen": content_hash(tensors_of(captioner)[1]),
        "log_scale": log_scale,
    }


def load_captioner(checkpoint: Checkpoint) -> Captioner:
    """The captioner of a checkpoint; nothing is downloaded.

    Raises:
        CheckpointError: it holds none, its settings are damaged, or its tensors do not fit them.
    """
    if checkpoint.captioner is None:
        raise CheckpointError(
            f"{checkpoint.path} holds no captioner; train one on it with "
            f"`python train.py experiment=caption_demo init={checkpoint.path}`"
        )
    about, config = checkpoint.about["captioner"], checkpoint.config.captioner
    settings = config.language_model
    tokenizer = CaptionTokenizer.from_files(about["tokenizer"], settings.tokenizer.max_tokens)
    lora = {name: settings[name] for name in ("train", "rank", "scale") if name in settings}
    try:
        language = language_model(tokenizer, config=about["language_config"], **lora)
        captioner = _assembled(build_model(checkpoint), config, tokenizer, language)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged configuration makes of it
        raise CheckpointError(f"{checkpoint.path}: no captioner can be built of its settings ({error})") from error
    load_tensors(captioner, checkpoint)
    return captioner.eval()


def load_tensors(captioner: Captioner, checkpoint: Checkpoint) -> None:
    """Loads mapping and language model of a checkpoint into a captioner of the same architecture.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape; the captioner is then unchanged.
    """
    there = checkpoint.captioner or {}
    trained, frozen = tensors_of(captioner)
    own = {name: value for name, value in (trained | frozen).items() if not name.startswith("clap.")}
    odd = own.keys() ^ there.keys() or {name for name in own if own[name].shape != there[name].shape}
    if odd:
        raise CheckpointError(
            f"{checkpoint.path} holds another captioner: {len(odd)} tensors do not fit (first: {min(odd)}); choose its "
            "mapping and language model (captioner/mapping=…, captioner/language_model=…)"
        )
    captioner.load_state_dict(there, strict=False)
