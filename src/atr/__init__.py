"""`atr`: train, fine-tune, evaluate and serve contrastive audio-text models.

`import atr` is cheap: the libraries behind `load` are imported on its first use.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from atr.inference import load


def __getattr__(name: str) -> Any:
    if name == "load":
        from atr.inference import load

        return load
    raise AttributeError(f"module 'atr' has no attribute {name!r}")
