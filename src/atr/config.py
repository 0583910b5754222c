"""Where the configuration lives, how it is composed, and what is said when it is wrong."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atr.errors import AtrError, UsageError

_PACKAGE = Path(__file__).resolve().parent


def root_of_checkout() -> Path | None:
    """The checkout this package runs from (editable installs included), or None in an installed wheel."""
    root = _PACKAGE.parent.parent
    return root if _PACKAGE.parent.name == "src" and (root / "pyproject.toml").is_file() else None


def conf_dir() -> Path:
    """`conf/` of the checkout, or `atr/conf` of the wheel."""
    return (root_of_checkout() or _PACKAGE) / "conf"


def demo_dir() -> Path:
    """The demo corpus: `data/` of the checkout, or `atr/data` of the wheel."""
    return (root_of_checkout() or _PACKAGE) / "data"


OmegaConf.register_new_resolver("demo", lambda name: str(demo_dir() / name), replace=True)


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration `python train.py OVERRIDES` runs with.

    Raises:
        UsageError: an override names a key or a group's file that does not exist; the message lists those
            that do.
    """
    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("config", overrides=replaced(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_explain(str(error), overrides)) from error


def missing(cfg: DictConfig) -> list[str]:
    """The keys that still need a value, sorted, e.g. `init`."""

    def found(value: Any, key: str) -> list[str]:
        if isinstance(value, dict):
            return [name for child, inner in value.items() for name in found(inner, f"{key}.{child}".lstrip("."))]
        return [key] if value == "???" else []

    return sorted(found(OmegaConf.to_container(cfg), ""))


def replaced(overrides: Sequence[str]) -> list[str]:
    """`data.train={…}` and `data.train=[…]` with `data.train=null` before it.

    What stands there may be the other of the two, and Hydra would merge them, and fail; or keep corpora not named here.
    """
    result: list[str] = []
    for text in overrides:
        whole = re.match(r"(data\.(?:train|validation|test))=\s*[\[{]", text)
        result += [f"{whole[1]}=null", text] if whole else [text]
    return result


def build(config: DictConfig, **arguments: Any) -> Any:
    """Hydra's `instantiate` to plain lists and dicts, with errors as they were raised instead of wrapped.

    Raises:
        AtrError: as the constructor raised it.
        UsageError: the constructor refused a value in another way.
    """
    try:
        return instantiate(config, _convert_="all", **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, AtrError):
            raise error.__cause__ from None
        raise UsageError(str(error)) from error


def _explain(message: str, overrides: Sequence[str]) -> str:
    """Hydra's message, with the valid names where a key or a group's file is unknown."""
    if match := re.search(r"Could not override '([^']+)'", message):
        return _explain_key(match.group(1), overrides)
    if match := re.search(r"Could not find '([^']+)/([^']+)'", message):
        group, name = match.groups()
        files = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        return f"{group}={name} does not exist; there are: {', '.join(files)}"
    return message


def _explain_key(wrong: str, overrides: Sequence[str]) -> str:
    """Names the keys that stand where `wrong` does not."""
    cfg = compose_config([text for text in overrides if _key(text) != wrong])
    parent, _, name = wrong.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        node, parent, name = cfg, "", wrong
    keys = sorted(map(str, node))
    near = difflib.get_close_matches(name, keys, n=1)
    hint = f" Did you mean {'.'.join(filter(None, [parent, near[0]]))}?" if near else ""
    return f"there is no key {wrong!r}.{hint} Keys {'under ' + parent if parent else 'at the top'}: {', '.join(keys)}"


def _key(override: str) -> str:
    parsed = OverridesParser.create().parse_override(override)
    return str(parsed.key_or_group)
