"""The weights a run starts from, and how many tensors of each tower came from where."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from atr.checkpoint import (
    FORMAT,
    Checkpoint,
    build_architecture,
    load_weights,
    read_checkpoint,
    tokenizer_of,
    tower_of,
)  # fmt: skip
from atr.config import build
from atr.errors import CheckpointError, UsageError
from atr.models.clap import Clap
from atr.models.text import Tokenizer
from atr.overrides import LEVELS, differing, needed, value_of
from atr.types import Loaded

SHAPE = (
    "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size",
)  # fmt: skip
CHOOSE = "Choose the model it was trained with (model/audio=…, model/text=…, model.dim=…)"
NAMED = 3  # tensors in a line; all of them stand in init.json


def initial_model(cfg: DictConfig) -> tuple[Clap, dict[str, Loaded]]:
    """The configured model with the weights of `init`, with published weights, or with random ones.

    `init` may be whatever `read_checkpoint` takes. With `init_share=1` it and the model must be of one architecture.
    Below, what fits by name and shape is loaded, tower by tower; a text encoder of another name keeps its published
    weights. Towers that an audio encoder alone does not hold are as without `init`.

    Returns:
        The model, and for each of its parts where its tensors come from.

    Raises:
        CheckpointError: a smaller share than `init_share` of a tower's tensors comes from `init`, or it was trained
            behind another front end.
        UsageError: the same of published weights, or `init_share` is no share.
    """
    if not isinstance(cfg.init_share, int | float) or not 0.0 <= cfg.init_share <= 1.0:
        raise UsageError(f"init_share is {cfg.init_share!r}; allowed: 0 to 1, the share of a tower's tensors")
    if not cfg.init:
        model = configured(cfg)
        return model, {name: of_tower(model, name) for name, _ in model.named_children()}
    checkpoint = read_checkpoint(cfg.init)
    overrides = needed(checkpoint.config.model, cfg.model)
    advice = f"Add to the command: {' '.join(overrides)}" if overrides else CHOOSE
    if cfg.init_share > 0.0:
        check_front_end(checkpoint, cfg, advice)
    alone = "text" not in checkpoint.config.model
    other = "" if alone else other_text(checkpoint, cfg.model.text)
    if other and cfg.init_share == 1.0:
        raise CheckpointError(
            f"{cfg.init} holds another text encoder: {other}. Choose the one it was trained with (nothing is fetched "
            "for it), or set init_share below 1 to load the other towers from it" + f". {advice}" * bool(overrides)
        )
    model = configured(cfg) if other or alone else build_architecture(checkpoint, cfg.model)
    weights = usable(checkpoint, model)
    held = {tower_of(key) for key in checkpoint.weights}
    names = [name for name, _ in model.named_children()]
    names += sorted(held - set(names))
    towers = {
        name: of_tower(model, name) if alone and name not in held else from_checkpoint(model, name, checkpoint, weights)
        for name in names
    }
    if model.text.loaded.source:
        towers["text"] = model.text.loaded
    if cfg.init_share == 1.0:
        load_weights(model, checkpoint, advice)  # refuses left over tensors, too
    else:
        check_shares({name: towers[name] for name in names if name in held or not alone}, cfg.init_share, advice)
        model.load_state_dict(weights, strict=False)
    return model.train(), towers


def check_front_end(checkpoint: Checkpoint, cfg: DictConfig, advice: str) -> None:
    """Refuses a checkpoint that was trained on other log-mels: levels and bins that its norms know.

    Raises:
        CheckpointError: naming what differs.
    """
    then, now = checkpoint.config.model.mel, cfg.model.mel
    if keys := differing(then, now, LEVELS):
        values = "; ".join(f"{key} was {value_of(then, key)}, and is {value_of(now, key)} now" for key in keys)
        raise CheckpointError(
            f"{cfg.init} was trained on other log-mels ({values}), to which the norms in its audio encoder are set. "
            f"{advice}, or set init_share=0 to take its weights all the same"
        )


def configured(cfg: DictConfig) -> Clap:
    """The model as the configuration has it, random or with its text encoder's published weights."""
    config = DictConfig(OmegaConf.to_container(cfg.model))
    config.text.share = cfg.init_share
    model: Clap = build(config)
    return model


def other_text(checkpoint: Checkpoint, text: DictConfig) -> str:
    """How the configured text encoder differs from the checkpoint's, in words; empty when it does not."""
    if difference := _other_encoder(checkpoint, text):
        return difference
    then, now = checkpoint.config.model.text.tokenizer.path, text.tokenizer.path
    if not Path(now).is_dir():
        return "" if _same_name(then, now) else f"model.text.tokenizer.path was {then}, and is {now} now"
    tokenizer = Tokenizer(now, text.tokenizer.max_tokens)  # the same folder lies elsewhere on another machine
    if checkpoint.about["tokenizer"] is None:
        words = checkpoint.about["text_config"]["vocab_size"]
        same = len(tokenizer) == words
    else:
        same = tokenizer.inner.get_vocab() == tokenizer_of(checkpoint).inner.get_vocab()
    return "" if same else f"the vocabulary of model.text.tokenizer.path={now} is not its own"


def _other_encoder(checkpoint: Checkpoint, text: DictConfig) -> str:
    """The same for the encoder without its tokenizer."""
    before, own = checkpoint.config.model.text, checkpoint.about["text_config"]
    if (name := text.get("name")) and not _same_name(name, before.get("name")):
        if Path(name).is_dir():
            there = _config_in(name)
            keys = [key for key in SHAPE if there.get(key) != own.get(key)]
            return "; ".join(
                f"model.text.name={name} has {key} {there.get(key)}, it has {own.get(key)}" for key in keys
            )
        return f"model.text.name was {before.get('name')}, and is {name} now"
    then, now = before.get("config"), text.get("config")
    if then and now and checkpoint.about["format"] != FORMAT:  # a released one writes down more than a run has to
        now = {key: now[key] for key in now if key in then}
        then = {key: then[key] for key in now}
    return "" if then == now else f"model.text.config was {then}, and is {now} now"


def _config_in(folder: str) -> dict[str, Any]:
    """The configuration of a text encoder's folder."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"model.text.name={folder} is no folder of a text encoder ({str(error).splitlines()[0]})"
        ) from error


def _same_name(one: str | None, other: str | None) -> bool:
    """Whether two names on the hub mean the same: models without an owner have got one."""
    return one == other or {one, other} == {"roberta-base", "FacebookAI/roberta-base"}


def usable(checkpoint: Checkpoint, model: Clap) -> dict[str, Tensor]:
    """The checkpoint's tensors that fit a model by name and shape.

    None of the text encoder's where the model has published ones; no word embeddings of another vocabulary, whose
    rows stand for other words.
    """
    own = model.state_dict()
    weights = {k: v for k, v in checkpoint.weights.items() if k in own and own[k].shape == v.shape}
    if model.text.loaded.source:
        return {key: value for key, value in weights.items() if tower_of(key) != "text"}
    if checkpoint.about["tokenizer"] is None:  # nor of its own, or it has no text encoder: the shape is all there is
        return weights
    if model.text.tokenizer.inner.get_vocab() != tokenizer_of(checkpoint).inner.get_vocab():
        words = model.text.inner.get_input_embeddings().weight
        (key,) = [name for name, parameter in model.named_parameters() if parameter is words]
        weights.pop(key, None)
    return weights


def of_tower(model: Clap, name: str) -> Loaded:
    """Where the tensors of a tower come from that no checkpoint gave: random, or published."""
    if name == "text" and model.text.loaded.source:
        return model.text.loaded
    return Loaded(total=len(model.get_submodule(name).state_dict()))


def from_checkpoint(model: Clap, name: str, checkpoint: Checkpoint, weights: dict[str, Tensor]) -> Loaded:
    """Which tensors of a tower are among `weights`, those of the checkpoint that are loaded."""
    own = [key for key in model.state_dict() if tower_of(key) == name]
    there = [key for key in checkpoint.weights if tower_of(key) == name]

    def short(keys: list[str]) -> list[str]:
        return [key.partition(".")[2] for key in keys]

    return Loaded(
        str(checkpoint.path),
        len(own),
        short([key for key in own if key not in checkpoint.weights]),
        short([key for key in own if key in checkpoint.weights and key not in weights]),
        short([key for key in there if key not in own]),
    )


def check_shares(towers: dict[str, Loaded], share: float, advice: str) -> None:
    """Refuses a checkpoint of which too little fits.

    Raises:
        CheckpointError: naming the tower, and what did not fit.
    """
    for name, loaded in towers.items():
        if loaded.share < share:
            raise CheckpointError(
                f"{loaded.share:.2f} of the tensors of {name} fit, init_share={share:g} is asked for "
                f"({line(name, loaded)}). {advice}, or lower init_share"
            )


def line(name: str, loaded: Loaded) -> str:
    """A tower in a line."""
    if not loaded.total and not loaded.left_over:
        return f"{name}: no weights"
    if not loaded.source:
        return f"{name}: random"
    parts = [f"{name}: {loaded.loaded} of {loaded.total} tensors from {loaded.source}"]
    kinds = {"not there": loaded.missing, "of another shape or vocabulary": loaded.unfit, "left over": loaded.left_over}
    for kind, keys in kinds.items():
        if keys:
            more = f", … ({len(keys)})" if len(keys) > NAMED else ""
            parts.append(f"{kind}: {', '.join(keys[:NAMED])}{more}")
    return "; ".join(parts)


def report(towers: dict[str, Loaded], run_dir: Path) -> str:
    """What a run says about its first weights, a line for each tower; writes all of it to `run_dir/init.json`."""
    told = {name: {"loaded": loaded.loaded} | asdict(loaded) for name, loaded in towers.items()}
    (run_dir / "init.json").write_text(json.dumps(told, indent=2) + "\n")
    return "init        " + "\n            ".join(line(name, loaded) for name, loaded in towers.items())
