"""A model and an encoded set -> results with their protocol, and the embeddings behind them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atr.errors import DataError
from atr.evaluation.encode import encode_texts
from atr.evaluation.files import read_relevance
from atr.evaluation.judge import TaskResult
from atr.evaluation.record import FILE, POOLED, Protocol, Result, write_results
from atr.evaluation.retrieval import Pair, measure_retrieval
from atr.evaluation.saved import FOLDER, SavedSet, file_of, write_saved
from atr.evaluation.sets import EncodedSet, set_remarks
from atr.inference import AudioTextModel
from atr.provenance import environment
from atr.shards.transfer import shown

LABEL_RULE = "underscores become blanks; nothing else is changed"


@dataclass(frozen=True)
class Subject:
    """What is measured: a model, where it was, a hash of its weights, and the versions it runs on."""

    model: AudioTextModel
    checkpoint: str
    sha256: str
    versions: dict[str, Any]

    @classmethod
    def of(cls, model: AudioTextModel, checkpoint: str | Path) -> "Subject":
        """The model of a checkpoint."""
        return cls(model, str(checkpoint), model.fingerprint(), environment())

    def protocol(self, task: str, encoded: EncodedSet, **more: Any) -> Protocol:
        """The protocol of a task on a set."""
        return Protocol(
            task, encoded.clips.name, encoded.clips.manifest_sha256, len(encoded.clips), self.checkpoint, self.sha256,
            windows=encoded.windows, versions=self.versions, **more,
        )  # fmt: skip


@dataclass
class Evaluated:
    """Results, the encoded sets by name, and what could not be measured: no corpus, or something wrong with it."""

    results: list[Result] = field(default_factory=list)
    saved: dict[str, SavedSet] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, other: "Evaluated") -> None:
        """Takes in the results of another set."""
        self.results += other.results
        self.saved |= other.saved
        self.missing += other.missing
        self.failed += other.failed


def retrieval_of(subject: Subject, encoded: EncodedSet, relevance: Path | None = None) -> Evaluated:
    """Retrieval on a set, and the set with its captions' embeddings."""
    captions, owner = encoded.clips.clip_of_text()
    text = encode_texts(subject.model.clap, captions, subject.model.device)
    pairs = read_relevance(relevance, captions, encoded.clips.ids) if relevance else None
    rows = measure_retrieval(encoded.audio, text, owner, encoded.clips.ids, pairs)
    settings = counts(len(encoded.audio), owner, pairs) | table_of(relevance, pairs)
    protocol = subject.protocol("retrieval", encoded, settings=settings)
    return Evaluated(
        [Result(protocol, {POOLED: rows}, {}, set_remarks(encoded))], {encoded.clips.name: saved_set(encoded, text)}
    )


def counts(clips: int, owner: torch.Tensor, pairs: Sequence[Pair] | None) -> dict[str, int]:
    """How many queries and candidates each direction of retrieval has.

    Args:
        owner: the clip of each caption.
        pairs: captions and clips of a table of relevant pairs.
    """
    captions = len(owner)
    found = {
        "t2a/queries": captions, "t2a/candidates": clips,
        "a2t/queries": len(owner.unique()), "a2t/candidates": captions,
    }  # fmt: skip
    if pairs is not None:
        found |= {"t2a_multi/queries": len({caption for caption, _ in pairs}), "t2a_multi/candidates": clips}
    return found


def table_of(relevance: Path | None, pairs: Sequence[Pair] | None) -> dict[str, str]:
    """The name of a table of relevant pairs, and a hash of them."""
    if relevance is None or pairs is None:
        return {}
    return {"relevance": relevance.name, "relevance_sha256": digest(sorted(pairs))}


def classification_of(subject: Subject, found: TaskResult, name: str) -> Result:
    """What a zero-shot task came to, with its protocol.

    Args:
        name: of the set, for the protocol.
    """
    protocol = Protocol(
        "zero-shot", name, found.clips.manifest_sha256, len(found.clips), subject.checkpoint, subject.sha256,
        tuple(found.templates), LABEL_RULE, found.windows, versions=subject.versions,
        settings={
            "title": found.task.title, "kind": found.task.kind, "prompts": found.prompts, "chance": found.chance,
            "labels": len(found.labels),
        },
    )  # fmt: skip
    shown: dict[str, Any] = {
        "labels": found.labels, "per_class": {label: one.value for label, one in found.per_class.items()},
    }  # fmt: skip
    if found.confusion is not None:
        nearest_own = np.where(found.carried, found.cosine, -np.inf).argmax(axis=1)  # of several labels of a clip
        answered = found.cosine.argmax(axis=1)
        shown["confusion"] = found.confusion.tolist()
        shown["answers"] = [
            {
                "id": clip, "label": found.labels[label], "answer": found.labels[answer],
                "score_label": float(found.cosine[row, label]), "score_answer": float(found.cosine[row, answer]),
            }
            for row, (clip, label, answer) in enumerate(zip(found.clips.ids, nearest_own, answered, strict=True))
        ]  # fmt: skip
    return Result(protocol, found.rows, shown, found.remarks)


def saved_set(encoded: EncodedSet, text: torch.Tensor | None = None) -> SavedSet:
    """An encoded set for a file; without captions where `text` is None."""
    captions, owner = encoded.clips.clip_of_text() if text is not None else ([], torch.zeros(0, dtype=torch.int64))
    vectors = text if text is not None else encoded.audio[:0]
    return SavedSet(
        encoded.audio.numpy(), vectors.numpy(), owner.numpy(), encoded.clips.ids, captions, encoded.clips.labels,
        encoded.clips.titles, encoded.clips.folds, encoded.clips.places,
    )  # fmt: skip


def digest(*parts: Any) -> str:
    """A hash of tensors and lists of texts."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part.numpy().tobytes() if isinstance(part, torch.Tensor) else json.dumps(part).encode())
    return hashed.hexdigest()


def set_name(places: Sequence[str | Path]) -> str:
    """What a set is called: the last two parts of its path, or the folder that several places share.

    >>> set_name(["data/esc10/fold5"]), set_name(["data/esc10/fold1", "data/esc10/fold2"])
    ('esc10/fold5', 'esc10')
    """
    paths = [Path(shown(str(one)).rstrip("/")) for one in places]
    if len(paths) > 1 and len({path.parent for path in paths}) == 1 and paths[0].parent.name:
        return paths[0].parent.name
    names = ["/".join(part for part in path.parts[-2:] if part not in ("/", "..", ".")) for path in paths]
    return "+".join(dict.fromkeys(names))


def write_evaluated(folder: Path, done: Evaluated) -> None:
    """Writes `results.json` and `embeddings/SET.npz` into a folder, which is made.

    Raises:
        DataError: it cannot be written.
    """
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror or error})") from error
    for name, saved in done.saved.items():
        write_saved(folder / FOLDER / file_of(name), saved)
    write_results(folder / FILE, done.results)
