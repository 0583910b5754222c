"""What shows only when the samples of all shards are compared: works on FACTS `(N,)`, see `examine.py`."""

from collections.abc import Iterator

import numpy as np

from atr.shards.examine import CAPTIONED, LABELLED, NOBODY

TOUCHING = 1e-3  # s; stretches that share less do not overlap
Compared = Iterator[tuple[int, str, str, int | None]]  # place, kind, detail, and which other the detail ends with


def rates(facts: np.ndarray, wanted: int | None) -> Compared:
    """Samples of another rate than `wanted` Hz, or than most have."""
    rates, counts = np.unique(facts["rate"][facts["rate"] > 0], return_counts=True)
    if not len(rates):
        return
    usual = int(rates[counts.argmax()])
    for at in np.flatnonzero((facts["rate"] > 0) & (facts["rate"] != (wanted or usual))).tolist():
        why = f"{wanted} Hz is wanted" if wanted else f"{counts.max()} samples have {usual} Hz"
        yield at, "wrong-rate", f"{facts['rate'][at]} Hz; {why}", None


def captions(facts: np.ndarray, of_folder: np.ndarray) -> Compared:
    """Samples of which nothing is said, or only labels where others of their folder have captions."""
    for at in np.flatnonzero(facts["says"] == NOBODY).tolist():
        yield at, "no-caption", "has neither a caption (`text`) nor a label (`tag`)", None
    captioned = np.unique(of_folder[facts["says"] == CAPTIONED])
    for at in np.flatnonzero((facts["says"] == LABELLED) & np.isin(of_folder, captioned)).tolist():
        yield at, "no-caption", "has a label, but no caption, which others in its folder have", None


def equals(facts: np.ndarray) -> Compared:
    """Samples with the sound, or the source, of an earlier one."""
    for field, kind, detail in [
        ("sound", "duplicate-audio", "the same samples as"),
        ("source", "same-source", "the same source as"),
    ]:
        values = facts[field]
        order = np.argsort(values, kind="stable")
        order = order[values[order] != 0]
        new = np.diff(values[order], prepend=np.uint64(0)) != 0
        first = order[new][np.cumsum(new) - 1] if len(order) else order
        for at, other in zip(order[~new].tolist(), first[~new].tolist(), strict=True):
            yield at, kind, detail, other


def overlaps(facts: np.ndarray) -> Compared:
    """Samples that begin in a source's file before an earlier one of it has ended."""
    known = np.flatnonzero(facts["file"])
    order = known[np.lexsort((known, facts["start"][known], facts["file"][known]))]
    last = -1  # of those of this file so far, the one that ends last
    for at in order.tolist():
        if last < 0 or facts["file"][at] != facts["file"][last]:
            last = at
            continue
        (start, end), (begin, until) = facts[["start", "end"]][at], facts[["start", "end"]][last]
        if start < until - TOUCHING:
            yield at, "overlap", f"{start:.2f} to {end:.2f} s of a file whose {begin:.2f} to {until:.2f} s are in", last
        if end > until:
            last = at
