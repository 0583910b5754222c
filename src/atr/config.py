"""Where the configuration lives, how it is composed, and what is said when it is wrong."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atr.errors import UsageError

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
            return compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_explain(str(error), overrides)) from error


def _explain(message: str, overrides: Sequence[str]) -> str:
    """Adds the valid keys to Hydra's message about an unknown one."""
    first = message.splitlines()[0] if message else "invalid configuration"
    match = re.search(r"Could not override '([^']+)'", message)
    if match is None:
        options = re.search(r"Available options in '[^']*':\n(.*)", message, re.DOTALL)
        if options is None:
            return f"{message}\n(overrides: {' '.join(overrides)})"
        return f"{first} Valid ones: {', '.join(options.group(1).split())}."
    wrong = match.group(1)
    parent, _, name = wrong.rpartition(".")
    others = [text for text in overrides if _key(text) != wrong]
    node = OmegaConf.select(compose_config(others), parent) if parent else compose_config(others)
    keys = sorted(map(str, node)) if isinstance(node, DictConfig) else []
    if not keys:
        return f"{first}. There is no {parent!r}: keys at the top are {', '.join(sorted(map(str, compose_config(others))))}."
    near = difflib.get_close_matches(name, keys, n=1)
    hint = f" Did you mean {'.'.join(filter(None, [parent, near[0]]))}?" if near else ""
    return f"{wrong!r} is not a key of the configuration.{hint} Valid keys{' under ' + parent if parent else ''}: {', '.join(keys)}."


def _key(override: str) -> str:
    parsed = OverridesParser.create().parse_override(override)
    return str(parsed.key_or_group)
