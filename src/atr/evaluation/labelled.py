"""The labelled clips of encoded sets, of which some are learnt from and others asked about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atr.errors import DataError, UsageError
from atr.evaluation.record import Protocol
from atr.evaluation.sets import EncodedSet, EvaluationSet, set_remarks
from atr.inference import some
from atr.provenance import environment

EMBEDDINGS = "unit vectors of the common space, after the projection"


@dataclass(frozen=True)
class Labelled:
    """The labelled clips of an encoded set.

    Attributes:
        clips: N of them. audio: float32 `(N, D)`. windows: how longer clips were covered.
        remarks: on the clips that are left out, and on the encoding.
    """

    clips: EvaluationSet
    audio: np.ndarray
    windows: str
    remarks: list[str]

    def of(self, rows: np.ndarray) -> "Labelled":
        """These clips only; rows ascending."""
        return Labelled(self.clips.of(rows.tolist()), self.audio[rows], self.windows, [])

    @property
    def recordings(self) -> list[str]:
        """The recording of each clip; one of its own where none is known."""
        pairs = zip(self.clips.sources, self.clips.ids, strict=True)
        return [f"source {source}" if source else f"clip {name}" for source, name in pairs]


def labelled(encoded: EncodedSet) -> Labelled:
    """The clips that carry a label; how many do not is a remark.

    Raises:
        DataError: there is none.
    """
    clips = encoded.clips
    rows = np.array([row for row, labels in enumerate(clips.labels) if labels], np.int64)
    if not len(rows):
        raise DataError(f"no clip of {clips.name} has a label ({len(clips)} clips): no numbers are given")
    remarks = set_remarks(encoded)
    if left := len(clips) - len(rows):
        remarks.append(f"{clips.name}: {left} of {len(clips)} clips have no label and are left out")
    return Labelled(clips.of(rows.tolist()), encoded.audio.numpy()[rows], encoded.windows, remarks)


def pair(train: EncodedSet, test: EncodedSet) -> tuple[Labelled, Labelled]:
    """Two sets, one to learn from and one to ask about.

    Raises:
        DataError: a clip is in both, or one has no labelled clip.
        UsageError: they were encoded in different ways.
    """
    if train.windows != test.windows or train.audio.shape[1:] != test.audio.shape[1:]:
        raise UsageError(
            f"the training set is of shape {tuple(train.audio.shape)} with windows={train.windows!r}, the test set of "
            f"{tuple(test.audio.shape)} with {test.windows!r}; encode both with one model and the same windows"
        )
    learnt, asked = labelled(train), labelled(test)
    if both := sorted(set(learnt.clips.ids) & set(asked.clips.ids)):
        raise DataError(
            f"{len(both)} clips are in the training set and in the test set ({some(both)}); name the folders of each "
            "once, or rename clips that are different ones"
        )
    return learnt, asked


def labels_of_both(learnt: Labelled, asked: Labelled) -> tuple[list[str], bool]:
    """The labels of the training clips, and whether any clip carries several.

    Raises:
        DataError: a test clip carries another one.
    """
    known = {label for labels in learnt.clips.labels for label in labels}
    if unknown := sorted({label for labels in asked.clips.labels for label in labels} - known):
        clips = sum(bool(set(labels) & set(unknown)) for labels in asked.clips.labels)
        raise DataError(
            f"labels of {clips} clips of {asked.clips.name} ({'+'.join(sorted(set(asked.clips.folds)))}) stand on no "
            f"training clip: {', '.join(map(repr, unknown))}; training has {', '.join(map(repr, sorted(known)))}"
        )
    return sorted(known), any(len(labels) > 1 for one in (learnt, asked) for labels in one.clips.labels)


def target_of(clips: EvaluationSet, labels: Sequence[str]) -> np.ndarray:
    """bool `(N, C)`."""
    return np.array([[label in carried for label in labels] for carried in map(set, clips.labels)], bool)


def shared(learnt: Labelled, asked: Labelled) -> list[str]:
    """Remarks on test clips that the training clips may know."""
    lines = []
    seen = {row.tobytes() for row in learnt.audio}
    if same := [n for n, row in zip(asked.clips.ids, asked.audio, strict=True) if row.tobytes() in seen]:
        lines.append(f"{len(same)} test clips have the embedding of a training clip ({some(same)}): the same sound?")
    known = set(filter(None, learnt.clips.sources))
    pairs = zip(asked.clips.ids, asked.clips.sources, strict=True)
    if same := [name for name, source in pairs if source in known]:
        lines.append(f"{len(same)} test clips are of recordings that training clips are of ({some(same)})")
    return [f"{line} `atr leaks` tells more" for line in lines]


def shared_by_folds(clips: Labelled) -> list[str]:
    """Remarks on clips that the training of their fold may know."""
    lines = []
    for what, values in (("an embedding", [row.tobytes() for row in clips.audio]), ("a recording", clips.recordings)):
        folds: dict[Any, set[str]] = {}
        for value, fold in zip(values, clips.clips.folds, strict=True):
            folds.setdefault(value, set()).add(fold)
        if count := sum(len(folds[value]) > 1 for value in values):
            lines.append(f"{count} clips share {what} with a clip of another fold; `atr leaks` tells more")
    return lines


def protocol(task: str, asked: Labelled, checkpoint: str, sha256: str, settings: dict[str, Any]) -> Protocol:
    """What the numbers on the clips that are asked about depend on."""
    return Protocol(
        task=task, dataset=asked.clips.name, manifest_sha256=asked.clips.manifest_sha256, clips=len(asked.clips),
        checkpoint=checkpoint, checkpoint_sha256=sha256, windows=asked.windows, ties="first label",
        settings=settings, versions=environment(),
    )  # fmt: skip
