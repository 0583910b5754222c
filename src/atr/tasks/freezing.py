"""Parts of the model that are not trained: for good, or in the first epochs."""

from collections.abc import Mapping

from torch import nn

from atr.models.clap import Clap

FOR_GOOD = -1


class Freezing:
    """Keeps `audio`, `text` or `projections` as they are for a number of epochs; the logit scale is always trained.

    A frozen part runs in `eval()`: no dropout, DropPath or SpecAugment, and the mel norm's running statistics are used
    and kept. Frozen for good (-1), it has no gradients and costs a forward pass alone. Frozen for some epochs, its
    gradients are computed and dropped before they are clipped or seen by the optimizer, so that no weight moves, no
    moment is kept, and nothing decays. Such epochs cost as much time and memory as others, because
    DistributedDataParallel fixes at its beginning which parameters have gradients. The schedule of the learning rate
    runs on.

    Feature fusion (`models/fusion.py`) is a part of its own, frozen for good unless the clips are longer than the
    model's: it is not used then, and DistributedDataParallel refuses parameters without gradients.

    Args:
        model: parts frozen for good lose `requires_grad` at once, as DistributedDataParallel must see it.
        epochs: part -> number of first epochs, 0 for none, -1 for all.
        seconds: length of the clips; None: of the model's.
    """

    def __init__(self, model: Clap, epochs: Mapping[str, int], seconds: float | None = None) -> None:
        parts: dict[str, list[nn.Module]] = {
            "audio": [model.audio],
            "text": [model.text],
            "projections": [model.audio_projection, model.text_projection],
        }
        self.epochs = {name: count for name, count in epochs.items() if count != 0}
        longer = seconds is not None and model.mel.frames_in(seconds) > model.mel.frames
        if model.fuses and not longer:
            parts["fusion"] = [part for part in (model.audio.fusion, model.audio.local_patch_embed) if part is not None]
            self.epochs["fusion"] = FOR_GOOD
        self.parts = {name: parts[name] for name in self.epochs}
        for name, count in self.epochs.items():
            for module in self.parts[name] if count == FOR_GOOD else []:
                module.requires_grad_(False)

    def set_modes(self, epoch: int) -> None:
        """Puts each part into `eval()` or `train()` as it must be in an epoch; to be called before each step."""
        for name, modules in self.parts.items():
            for module in modules:
                if module.training == self._frozen(name, epoch):
                    module.train(not module.training)

    def drop_gradients(self, epoch: int) -> None:
        """Forgets what a backward pass left in the parts that are frozen in an epoch."""
        for name, modules in self.parts.items():
            if self._frozen(name, epoch):
                for module in modules:
                    module.zero_grad(set_to_none=True)

    def _frozen(self, name: str, epoch: int) -> bool:
        return self.epochs[name] == FOR_GOOD or epoch < self.epochs[name]

    def lines(self, max_epochs: int | None) -> list[str]:
        """What a run says about it, with a warning where a part is frozen in all epochs; none when nothing is."""
        told = [
            f"{name} {'for good' if count == FOR_GOOD else f'in the first {count} epochs'}"
            + (" (no clip is longer than the model's)" if name == "fusion" else "")
            for name, count in self.epochs.items()
        ]
        lines = [f"frozen      {', '.join(told)}"] if told else []
        for name, count in self.epochs.items():
            if max_epochs is not None and 0 <= max_epochs <= count:
                lines.append(
                    f"warning     parameters.freeze.{name}={count} and trainer.max_epochs={max_epochs}: it is never "
                    "trained; -1 says so and saves its backward pass"
                )
        return lines
