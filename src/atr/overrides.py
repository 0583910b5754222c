"""The overrides with which a run's model is the one that a checkpoint holds."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from atr.config import conf_dir

AUDIO = ("picture_size", "embed_dim", "depths", "heads", "window", "fusion")
LEVELS = ("n_mels", "frequency_min", "frequency_max", "mel_scale", "floor")  # what the encoder's norms have learnt
MEL = (*LEVELS, "sample_rate", "seconds", "n_fft", "hop")
ABSENT = {"fusion": False, "mel_scale": "slaney"}  # older configurations do not have these


def needed(before: DictConfig, now: DictConfig) -> list[str]:
    """Overrides that turn the model part `now` into `before`, presets where there are some; none where it is."""
    overrides = []
    if differing(before.audio, now.audio, AUDIO):
        overrides += _of_group("audio", before.audio, now.audio, AUDIO)
    if differing(before.mel, now.mel, LEVELS):
        overrides += _of_group("mel", before.mel, now.mel, MEL)
    if "text" not in before:
        return overrides
    if before.text.get("name") != now.text.get("name"):
        overrides += _of_group("text", before.text, now.text, ("name",)) if before.text.get("name") else []
    elif before.text.get("config") and now.text.get("config"):
        then, own = before.text.config, now.text.config
        keys = differing(then, own, [str(key) for key in own if key in then])  # a released one has all keys
        overrides += [f"model.text.config.{key}={_written(value_of(then, key))}" for key in keys]
    if before.text.pooling != now.text.pooling:
        overrides.append(f"model.text.pooling={before.text.pooling}")
    return overrides + ([f"model.dim={before.dim}"] if before.dim != now.dim else [])


def differing(before: DictConfig, now: DictConfig, keys: Sequence[str]) -> list[str]:
    """Those of the keys that have other values."""
    return [key for key in keys if value_of(before, key) != value_of(now, key)]


def _of_group(group: str, before: DictConfig, now: DictConfig, keys: Sequence[str]) -> list[str]:
    """The preset in `conf/model/GROUP` that has the values of `before`; if there is none, key by key."""
    for path in sorted((conf_dir() / "model" / group).glob("*.yaml")):
        if not differing(before, _preset(group, path.stem), keys):
            return [f"model/{group}={path.stem}"]
    return [f"++model.{group}.{key}={_written(value_of(before, key))}" for key in differing(before, now, keys)]


def _preset(group: str, name: str) -> DictConfig:
    """A preset with those that it builds on."""
    own = OmegaConf.load(conf_dir() / "model" / group / f"{name}.yaml")
    assert isinstance(own, DictConfig)
    return DictConfig(OmegaConf.merge(*(_preset(group, parent) for parent in own.pop("defaults", [])), own))


def value_of(node: DictConfig, key: str) -> Any:
    """What stands under a key, or what its absence means."""
    value = node.get(key, ABSENT.get(key))
    return list(value) if isinstance(value, ListConfig) else value


def _written(value: Any) -> str:
    """As an override has it, which is as Python has it, but for true, false and null and without blanks."""
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value).replace(" ", ""))
