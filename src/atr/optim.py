"""Parameter groups, optimizers by name, and the learning rate's course."""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from atr.errors import UsageError

NO_DECAY = ("relative_position_bias_table",)
FREEZABLE = ("audio", "text", "projections")


class Groups:
    """Which parameters share a learning rate and a weight decay.

    With weight decay and without: vectors and scalars (norms, biases, logit scale and bias) and the
    relative-position tables are not decayed. This is what LAION-CLAP does, by shape instead of by name
    (`training/main.py`: ndim < 2, "bn", "ln", "bias", "logit_scale"; the tables fall under "bias" there).

    Args:
        audio_lr, text_lr: factor on the optimizer's lr for an encoder.
        projection_lr: the same for both projections, logit scale and bias.
        layer_decay: an encoder's layer has its lr times this for every layer above it (`layer_depths`).
        freeze: part -> number of first epochs in which it is not trained, -1 for all; see `atr.tasks.freezing`.

    Raises:
        UsageError: a value has no meaning, or nothing would be trained in the first epoch.
    """

    def __init__(
        self,
        audio_lr: float = 1.0,
        text_lr: float = 1.0,
        projection_lr: float = 1.0,
        layer_decay: float = 1.0,
        freeze: Mapping[str, int] | None = None,
    ) -> None:
        self.lr = {"audio": audio_lr, "text": text_lr, "projection": projection_lr}
        self.layer_decay = layer_decay
        self.freeze = dict.fromkeys(FREEZABLE, 0) | dict(freeze or {})
        for name, factor in self.lr.items():
            if not _is_number(factor) or not 0 < factor < math.inf:
                raise UsageError(
                    f"parameters.{name}_lr is {factor!r}; it must be above 0. Not to train a part at all: "
                    "parameters.freeze.audio=-1 (text, projections)"
                )
        if not _is_number(layer_decay) or not 0 < layer_decay <= 1:
            raise UsageError(f"parameters.layer_decay is {layer_decay!r}; it must be above 0 and at most 1")
        if unknown := sorted(self.freeze.keys() - set(FREEZABLE)):
            raise UsageError(f"parameters.freeze names {unknown[0]!r}; allowed: {', '.join(FREEZABLE)}")
        for name, epochs in self.freeze.items():
            if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < -1:
                raise UsageError(
                    f"parameters.freeze.{name} is {epochs!r}; allowed: 0, a whole number of epochs, or -1 for all"
                )
        if all(self.freeze.values()):
            raise UsageError(
                f"parameters.freeze={self.freeze} leaves nothing to train in the first epoch; set one of them to 0"
            )

    def __call__(self, model: nn.Module, loss: nn.Module, lr: float | None = None) -> list[dict[str, Any]]:
        """The groups for an optimizer; each trainable parameter is in one.

        By default two: with the optimizer's weight decay, and without. Else two for each learning rate.

        Args:
            model: with the children `audio` and `text`; all else counts as projection.
            loss: its parameters count as projection.
            lr: the optimizer's; needed when a factor is not 1.

        Raises:
            UsageError: there is no lr, or an encoder has no numbered layers to decay over.
        """
        factors = self._factors([name for name, _ in model.named_parameters()])
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in [*model.named_parameters(), *loss.named_parameters()]:
            if parameter.requires_grad:
                spared = parameter.ndim < 2 or name.endswith(NO_DECAY)
                factor = factors.get(name, self.lr["projection"])
                groups.setdefault((factor, spared), []).append(parameter)
        if lr is None and any(factor != 1 for factor, _ in groups):
            raise UsageError("parameters.*_lr and layer_decay multiply optimizer.lr, which is not given; set it")
        order = list(dict.fromkeys(factor for factor, _ in groups))
        return [
            {"params": groups[factor, spared]}
            | ({} if factor == 1 or lr is None else {"lr": lr * factor})
            | ({"weight_decay": 0.0} if spared else {})
            for factor in order
            for spared in (False, True)
            if (factor, spared) in groups
        ]

    def _factors(self, names: Sequence[str]) -> dict[str, float]:
        """Factor on the lr of each parameter of a `Clap`'s encoders."""
        factors: dict[str, float] = {}
        for tower in ("audio", "text"):
            depths = layer_depths([name for name in names if name.startswith(f"{tower}.")])
            top = max(depths.values(), default=0)
            if self.layer_decay != 1 and top == 0:
                raise UsageError(f"parameters.layer_decay={self.layer_decay}, but model.{tower} has no numbered layers")
            factors |= {name: self.lr[tower] * self.layer_decay ** (top - depth) for name, depth in depths.items()}
        return factors

    def line(self, groups: int) -> str:
        """One line for a run's opening, empty with the default values: "learning rates x …"."""
        told = [f"{name} x {factor:g}" for name, factor in self.lr.items() if factor != 1]
        told += [f"x {self.layer_decay:g} per layer"] if self.layer_decay != 1 else []
        return f"rates       {', '.join(told)}; {groups} groups" if told else ""


def layer_depths(names: Sequence[str]) -> dict[str, int]:
    """The layer of each parameter of an encoder, from its name: 0 what comes before the blocks, then 1, 2, ….

    Blocks are told by the numbers in the names: stage and block of HTSAT (`layers.2.blocks.5.`; `downsample` belongs
    to the first block of its stage), the first number in encoders of `transformers` (`encoder.layer.11.`). All other
    names are the input's when they stand before the first block or hold "embed" (norm of the mel bins, patches, feature
    fusion, word and position embeddings), else they go with the last block (final norm, pooler).

    Args:
        names: in the order of the module.
    """
    places = [_place_in_htsat(name) for name in names]
    if not any(places):
        places = [_place(name) for name in names]
    order = sorted({place for place in places if place is not None})
    first = next((i for i, place in enumerate(places) if place is not None), len(names))
    depths = {}
    for i, (name, place) in enumerate(zip(names, places, strict=True)):
        if place is not None:
            depths[name] = 1 + order.index(place)
        else:
            depths[name] = 0 if i < first or "embed" in name else len(order)
    return depths


def _place_in_htsat(name: str) -> tuple[int, int] | None:
    """Where a parameter's block stands among the others, or None for one outside of all blocks."""
    found = re.search(r"\blayers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.", name)
    return (int(found[1]), int(found[2] or 0)) if found else None


def _place(name: str) -> tuple[int, int] | None:
    """The same in encoders of `transformers`."""
    found = re.search(r"\.(\d+)\.", name)
    return None if found is None or "embed" in name[: found.start()] else (int(found[1]), 0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def timm_optimizer(groups: list[dict[str, Any]], opt: str, **settings: Any) -> Optimizer:
    """One of timm's optimizers, e.g. `lamb`, `lion`, `adan`, `muon`; `settings` are its own: lr, weight_decay, ….

    Raises:
        UsageError: timm has none of this name, or it cannot be used here (no such package, or no GPU).
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    names = [str(name) for name in list_optimizers()]
    if opt not in names:
        near = difflib.get_close_matches(str(opt), names, n=5) or ["adamw", "lamb", "lion"]
        raise UsageError(
            f"optimizer.opt is {opt!r}, which timm has not; near it: {', '.join(near)}. All of them: "
            'python -c "import timm.optim; print(timm.optim.list_optimizers())"'
        )
    try:
        optimizer: Optimizer = create_optimizer_v2(groups, opt=opt, **settings)
    except (ImportError, AssertionError) as error:  # fused*: apex; bnb*: bitsandbytes
        raise UsageError(f"optimizer.opt={opt} cannot be used here ({error})") from error
    return optimizer


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Factor on the learning rate at a step: linear to 1 over the warm-up, then a half cosine to 0.

    Source: LAION-CLAP, `training/scheduler.py`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class WarmupCosine:
    """`warmup_cosine` as a per-step schedule.

    Args:
        warmup_steps: optimizer steps; 0 leaves the warm-up out.
    """

    def __init__(self, warmup_steps: int) -> None:
        self.warmup_steps = warmup_steps

    def __call__(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        """Attaches the schedule to an optimizer."""
        factor: Callable[[int], float] = lambda step: warmup_cosine(step, self.warmup_steps, total_steps)  # noqa: E731
        return LambdaLR(optimizer, factor)
