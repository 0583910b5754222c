"""What the verbs of `atr eval` do: a checkpoint and places -> results."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atr.errors import DataError, UsageError
from atr.evaluation.files import read_embeddings, read_relevance
from atr.evaluation.own import config_of, test_sets
from atr.evaluation.record import POOLED, Protocol, Result
from atr.evaluation.retrieval import measure_retrieval
from atr.evaluation.run import Evaluated, Subject, counts, digest, retrieval_of, set_name
from atr.evaluation.sets import EvaluationSet, encode_set, read_set
from atr.inference import load
from atr.provenance import environment


def retrieve(
    checkpoint: str | Path,
    places: Sequence[str] = (),
    relevance: Path | None = None,
    windows: str = "mean",
    bad_share: float = 0.01,
) -> Evaluated:
    """Retrieval on each place by itself, or on the run's own test set.

    Args:
        checkpoint: what `atr.load` takes.
        relevance: a table of further relevant pairs; with one place only.

    Raises:
        DataError: see `read_set`, `encode_set`, `retrieval`; or a set has no captions.
        UsageError: there is no set, or a relevance table for several.
    """
    subject = Subject.of(load(checkpoint), checkpoint)
    sets = sets_of(checkpoint, places)
    if relevance is not None and len(sets) > 1:
        raise UsageError(f"--relevance is a table for one set; {len(sets)} are given")
    done = Evaluated()
    for clips in sets:
        if not any(clips.captions):
            raise DataError(f"{clips.name} has no captions to search by; labels are for `atr eval zero-shot`")
        encoded = encode_set(subject.model, clips, windows, bad_share)
        done.add(retrieval_of(subject, encoded, relevance))
    return done


def retrieve_embeddings(path: Path, relevance: Path | None = None) -> Evaluated:
    """Retrieval from a file of embeddings, of any model.

    Raises:
        DataError: see `read_embeddings`, `read_relevance`.
    """
    audio, text, owner, ids = read_embeddings(path)
    pairs = None
    if relevance is not None:
        with np.load(path, allow_pickle=False) as file:
            if "captions" not in file.files:
                raise DataError(f"{path} has no array captions (M,) of text, by which {relevance} names them")
            pairs = read_relevance(relevance, file["captions"].tolist(), ids)
    rows = measure_retrieval(audio, text, owner, ids, pairs)
    protocol = Protocol(
        "retrieval", path.stem, digest(owner, ids), len(audio), str(path), digest(audio, text),
        settings=counts(len(audio), owner), versions=environment(),
    )  # fmt: skip
    return Evaluated([Result(protocol, {POOLED: rows})])


def sets_of(checkpoint: str | Path, places: Sequence[str]) -> list[EvaluationSet]:
    """Each place as a set, or the corpora of the run's own test set."""
    if places:
        return [read_set([place], set_name([place])) for place in places]
    return list(test_sets(config_of(checkpoint), str(checkpoint)).values())
