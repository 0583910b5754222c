"""What travels between the rooms. Legend: B clips, M captions, T samples, L tokens, D embedding."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One row of a manifest: a stretch of sound and what is said about it."""

    id: str
    audio: str  # path of the sound file
    captions: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    split: str = ""
    title: str = ""
    duration: float | None = None  # s
    sample_rate: int | None = None  # Hz
    start: float | None = None  # s in the file
    end: float | None = None  # s in the file
    events: list[tuple[str, float, float]] = field(default_factory=list)  # caption, onset s, offset s
    questions: list[tuple[str, str]] = field(default_factory=list)  # question, answer
    source: str = ""  # the recording the clip was cut from, as site:id: youtube:r1nicOVtvkQ, freesound:102844
    dataset: str = ""
    licence: str = ""

    def metadata(self) -> dict[str, Any]:
        """The clip's json inside a shard: LAION's `text` and `tag`, the name of its file, the other fields if set."""
        fields = asdict(self)
        file = PurePath(fields.pop("audio")).name
        meta = {"text": fields.pop("captions"), "tag": fields.pop("labels"), "file": file}
        return meta | {name: value for name, value in fields.items() if value not in (None, "", [])}


class Draw(NamedTuple):
    """One place in an epoch's global order: the clip that stands there, and what its chance is seeded with."""

    number: int
    epoch: int
    position: int
    partner: int  # the clip at the same place of the next batch, which pair mixing may take


@dataclass(frozen=True)
class BadSample:
    """A sample that was skipped, and why; or a damaged place that held several."""

    key: str
    reason: str
    clips: int = 1  # an estimate, where nobody knows


@dataclass
class Sample:
    """One decoded clip. `waveform (T,)`, or `(2, T)` in stereo: float32 while it is made, int16 when it is finished."""

    key: str
    waveform: np.ndarray
    captions: list[str]  # one in training, all in evaluation
    spoken: list[str]  # the same captions as the text encoder gets them, i.e. after word masking
    labels: list[str]
    source: str
    title: str = ""
    corpus: str = ""  # the part of a mixture that it comes from
    clipped: int = 0  # samples beyond [-1, 1]
    notes: list[str] = field(default_factory=list)
    features: np.ndarray | None = None  # (D,) or (N, D) float32, stored; then there is no waveform


@dataclass
class Batch:
    """What a step gets. In training M == B; in evaluation all captions of a clip come, clip after clip.

    The ids are 63-bit hashes, equal exactly where the thing itself is equal; the losses compare them.
    """

    waveform: Tensor  # (B, T) int16, or (B, 2, T) in stereo
    input_ids: Tensor  # (M, L) int64, padded to the longest of the batch
    attention_mask: Tensor  # (M, L) int64
    clip_id: Tensor  # (B,) int64
    source_id: Tensor  # (B,) int64
    label_id: Tensor  # (B,) int64
    corpus_id: Tensor  # (B,) int64
    caption_id: Tensor  # (M,) int64
    samples: list[Sample]  # without their waveforms
    clipped: int  # samples beyond [-1, 1] in the whole batch
    bad: list[BadSample]  # skipped while this batch was made
    features: Tensor | None = None  # (B, D) or (B, N, D) float32: stored ones of a frozen encoder; then no waveform

    def pin_memory(self) -> "Batch":
        """Pins the tensors, so that the copy to the device overlaps with the step before."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.pin_memory())
        return self

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "Batch":
        """Returns the batch with its tensors on `device`; Lightning calls it."""
        moved = replace(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device, non_blocking=non_blocking))
        return moved


@dataclass
class Loaded:
    """Where the tensors of a tower come from; names as in its `state_dict`."""

    source: str = ""  # a checkpoint, or a name or folder of published weights; empty: random
    total: int = 0  # tensors of the tower
    missing: list[str] = field(default_factory=list)  # not in the source
    unfit: list[str] = field(default_factory=list)  # there in another shape, or for another vocabulary
    left_over: list[str] = field(default_factory=list)  # in the source, but not in the tower
    new: int = 0  # of the missing ones, those that published weights never have

    @property
    def loaded(self) -> int:
        """Tensors that came from the source."""
        return self.total - len(self.missing) - len(self.unfit) if self.source else 0

    @property
    def share(self) -> float:
        """`loaded` of those that could have come; 1 where there is nothing to load."""
        return self.loaded / expected if (expected := self.total - self.new) > 0 else 1.0


@dataclass
class Embeddings:
    """Both sides of a batch in the common space: `(B, D)`, L2-normalised, float32."""

    audio: Tensor
    text: Tensor


@dataclass
class Encoded:
    """A whole evaluation set in the common space, on the CPU."""

    audio: Tensor  # (N, D)
    text: Tensor  # (M, D)
    clip_of_text: Tensor  # (M,) int64
    samples: list[Sample]  # N, without their waveforms

    def of(self, rows: list[int]) -> "Encoded":
        """These clips only, with their captions."""
        place = torch.full((len(self.audio),), -1)
        place[rows] = torch.arange(len(rows))
        kept = place[self.clip_of_text] >= 0
        samples = [self.samples[row] for row in rows]
        return Encoded(self.audio[rows], self.text[kept], place[self.clip_of_text[kept]], samples)
