"""The weights a run starts from, and how many tensors of each tower came from where."""

import json
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from atr.checkpoint import Checkpoint, build_architecture, load_weights, read_checkpoint
from atr.config import build
from atr.errors import CheckpointError, UsageError
from atr.models.clap import Clap
from atr.models.text import Tokenizer
from atr.types import Loaded

NAMED = 3  # tensors in a line; all of them stand in init.json


def initial_model(cfg: DictConfig) -> tuple[Clap, dict[str, Loaded]]:
    """The configured model with the weights of `init`, with published weights, or with random ones.

    With `init_share=1` the checkpoint and the model must be of one architecture. Below, what fits by name and shape
    is loaded, tower by tower; a text encoder of another name keeps its published weights.

    Returns:
        The model, and for each of its parts where its tensors come from.

    Raises:
        CheckpointError: a smaller share than `init_share` of a tower's tensors comes from `init`.
        UsageError: the same of published weights, or `init_share` is no share.
    """
    if not isinstance(cfg.init_share, int | float) or not 0.0 <= cfg.init_share <= 1.0:
        raise UsageError(f"init_share is {cfg.init_share!r}; allowed: 0 to 1, the share of a tower's tensors")
    if not cfg.init:
        model = configured(cfg)
        return model, {name: of_tower(model, name) for name, _ in model.named_children()}
    checkpoint = read_checkpoint(cfg.init)
    if (other := other_text(checkpoint, cfg.model.text)) and cfg.init_share == 1.0:
        raise CheckpointError(
            f"{cfg.init} holds another text encoder: {other}. Choose the one it was trained with (nothing is fetched "
            "for it), or set init_share below 1 to load the other towers from it"
        )
    model = configured(cfg) if other else build_architecture(checkpoint, cfg.model)
    weights = usable(checkpoint, model)
    names = [name for name, _ in model.named_children()]
    names += sorted({tower_of(key) for key in checkpoint.weights} - set(names))
    towers = {name: from_checkpoint(model, name, checkpoint, weights) for name in names}
    if model.text.loaded.source:
        towers["text"] = model.text.loaded
    if cfg.init_share == 1.0:
        load_weights(model, checkpoint)  # refuses left over tensors, too
    else:
        check_shares(towers, cfg.init_share)
        model.load_state_dict(weights, strict=False)
    return model.train(), towers


def configured(cfg: DictConfig) -> Clap:
    """The model as the configuration has it, random or with its text encoder's published weights."""
    config = DictConfig(OmegaConf.to_container(cfg.model))
    config.text.share = cfg.init_share
    model: Clap = build(config)
    return model


def other_text(checkpoint: Checkpoint, text: DictConfig) -> str:
    """How the configured text encoder differs from the checkpoint's, in words; empty when it does not."""
    before = checkpoint.config.model.text
    for key in ("name", "config"):
        if before.get(key) != text.get(key):
            return f"model.text.{key} was {before.get(key)}, and is {text.get(key)} now"
    then, now = before.tokenizer.path, text.tokenizer.path
    if Path(now).is_dir():  # the same folder lies elsewhere on another machine
        tokenizer = Tokenizer(now, text.tokenizer.max_tokens)
        same = tokenizer.inner.get_vocab() == checkpoint_tokenizer(checkpoint).inner.get_vocab()
        return "" if same else f"the vocabulary of model.text.tokenizer.path={now} is not its own"
    return "" if then == now else f"model.text.tokenizer.path was {then}, and is {now} now"


def checkpoint_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that a checkpoint carries."""
    return Tokenizer.from_files(checkpoint.about["tokenizer"], checkpoint.config.model.text.tokenizer.max_tokens)


def usable(checkpoint: Checkpoint, model: Clap) -> dict[str, Tensor]:
    """The checkpoint's tensors that fit a model by name and shape.

    None of the text encoder's where the model has published ones; no word embeddings of another vocabulary, whose
    rows stand for other words.
    """
    own = model.state_dict()
    weights = {k: v for k, v in checkpoint.weights.items() if k in own and own[k].shape == v.shape}
    if model.text.loaded.source:
        return {key: value for key, value in weights.items() if tower_of(key) != "text"}
    if model.text.tokenizer.inner.get_vocab() != checkpoint_tokenizer(checkpoint).inner.get_vocab():
        words = model.text.inner.get_input_embeddings().weight
        (key,) = [name for name, parameter in model.named_parameters() if parameter is words]
        weights.pop(key, None)
    return weights


def tower_of(key: str) -> str:
    """`audio.norm.weight` -> `audio`."""
    return key.partition(".")[0]


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


def check_shares(towers: dict[str, Loaded], share: float) -> None:
    """Refuses a checkpoint of which too little fits.

    Raises:
        CheckpointError: naming the tower, and what did not fit.
    """
    for name, loaded in towers.items():
        if loaded.share < share:
            raise CheckpointError(
                f"{loaded.share:.2f} of the tensors of {name} fit, init_share={share:g} is asked for "
                f"({line(name, loaded)}). Choose the model it was trained with (model/audio=…, model/text=…, "
                "model.dim=…), or lower init_share"
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
