"""Leakage: which clips of a training set are in an evaluation set, by id, source, file name or sound."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from atr.datasets.places import Place, Row, name_of, rows
from atr.errors import UsageError
from atr.types import BadSample, Clip

KINDS = ("id", "source", "file", "fingerprint")
SHOWN = 20  # rows of the table
SHORT = 6  # characters; shorter names say nothing outside of their dataset
MATES = 16  # evaluation clips of one recording that are kept, as a long one may be cut into thousands
# Names that anyone may give to a file, and the kinds of source of which nobody knows the rest.
_ANYONES = re.compile(
    r"(?:(?:audio|clip|example|file|noise|output|record(?:ing)?|sample|segment|sound|speech|test|track|train|untitled|"
    r"valid(?:ation)?|video|voice)s?|[\W\d_])*"
)
_NO_SOURCES = ("", "-", "?", "n/a", "na", "none", "null", "nan", "unknown")


@dataclass(frozen=True)
class Leak:
    """A training clip that is in an evaluation set, or on an exclusion list (then `evaluation` is the list).

    `by` has the kinds of match, `detail` what there is to say about them.
    """

    train: str  # place:id
    evaluation: str
    by: tuple[str, ...]
    detail: str = ""
    number: int = field(default=0, compare=False)  # of the training clip in its set


@dataclass
class Found:
    """The result of a comparison.

    Attributes:
        leaks: one for each pair; of a name or recording that many evaluation clips share, with the first `MATES`.
        same: clips that stand in a shard or manifest given on both sides: place -> numbers in the training set.
        compared: clips of the training set.
        unmatchable: clips of both sides whose sound is too short, silent or steady for a fingerprint.
        bad: clips that could not be compared.
    """

    leaks: list[Leak] = field(default_factory=list)
    same: dict[str, list[int]] = field(default_factory=dict)
    compared: int = 0
    unmatchable: int = 0
    bad: list[BadSample] = field(default_factory=list)

    @property
    def clips(self) -> int:
        """Training clips with a leak."""
        return len({leak.train for leak in self.leaks}) + sum(map(len, self.same.values()))


def find_leaks(
    train: Sequence[Place], evaluation: Sequence[Place], by: Sequence[str] = KINDS, exclude_lists: Sequence[Path] = ()
) -> Found:
    """Compares sets. The evaluation side is held in memory, the training side passes by.

    `id`: within one dataset, or where neither is known; then digits alone, or fewer than 6 characters, say nothing.
    `source`: the same recording (`youtube:…`), also where the two are different stretches of it.
    `file`: the same name, whatever its suffix and case; digits, short names and such as `clip_0001` only within one
    dataset.
    `fingerprint`: the same sound, see `fingerprint.py`.

    Args:
        train, evaluation: shard sets, or paths of manifests.
        by: kinds of match.
        exclude_lists: files with sources that must not be trained on.

    Raises:
        UsageError: an unknown kind.
        DataError: a place or list cannot be read.
    """
    if wrong := [kind for kind in by if kind not in KINDS]:
        raise UsageError(f"leaks cannot be found by {wrong[0]!r}; allowed: {', '.join(KINDS)}")
    found = Found()
    known, identities = _known(evaluation, by, found)
    lists = _read_lists(exclude_lists)
    for place in train:
        for row in rows(place, found.bad):
            found.compared += 1
            if row.identity in identities:
                found.same.setdefault(row.place, []).append(row.number)
                continue
            found.leaks += _leaks_of(row, known, by)
            found.leaks += [
                Leak(name_of(row), name, ("exclusion list",), row.clip.source, row.number)
                for name, sources in lists.items()
                if _recording(row.clip) in sources
            ]
    if "fingerprint" in by:
        from atr.datasets.alike import find_alike

        alike = find_alike(train, evaluation, identities, found)
        found.leaks = _merged([*found.leaks, *alike])
    return found


@dataclass(frozen=True)
class _Known:
    """What is kept of an evaluation clip."""

    name: str
    start: float | None  # s
    end: float | None


def _known(
    places: Iterable[Place], by: Sequence[str], found: Found
) -> tuple[dict[tuple[str, str], list[_Known]], set[tuple[str, int]]]:
    known: dict[tuple[str, str], list[_Known]] = {}
    identities: set[tuple[str, int]] = set()
    for place in places:
        for row in rows(place, found.bad):
            if row.identity in identities:
                continue  # validation and test may share shards
            identities.add(row.identity)
            entry = _Known(name_of(row), row.clip.start, row.clip.end)
            for key in _keys(row.clip, by):
                if len(mates := known.setdefault(key, [])) < MATES:
                    mates.append(entry)
    return known, identities


def _leaks_of(row: Row, known: dict[tuple[str, str], list[_Known]], by: Sequence[str]) -> list[Leak]:
    pairs: dict[_Known, list[str]] = {}
    for key in _keys(row.clip, by):
        for entry in known.get(key, ()):
            pairs.setdefault(entry, []).append(key[0])
    return [
        Leak(name_of(row), entry.name, tuple(kinds), _detail(row.clip, entry, kinds), row.number)
        for entry, kinds in pairs.items()
    ]


def _keys(clip: Clip, by: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What two clips must share: (kind, name)."""
    if "id" in by and (key := _within(clip.id, clip.dataset)):
        yield "id", key
    if "source" in by and (key := _recording(clip)):
        yield "source", key
    if "file" in by and clip.audio:
        name = PurePath(clip.audio.replace("\\", "/")).stem.casefold()
        if not _says_nothing(name):
            yield "file", name
        elif clip.dataset:
            yield "file", f"{clip.dataset}\n{name}"


def _recording(clip: Clip) -> str:
    """The source of a clip: `youtube:r1nicOVtvkQ`, or a name within its dataset; empty where it tells nothing."""
    site, colon, name = clip.source.strip().partition(":")
    if (name if colon else site).strip().casefold() in _NO_SOURCES:
        return ""
    return f"{site.casefold()}:{name.strip()}" if colon else _within(site, clip.dataset)


def _within(name: str, dataset: str) -> str:
    """The name as it is known within a dataset; nothing when the dataset is unknown and anyone may use such a name."""
    return f"{dataset}\n{name}" if dataset or not _says_nothing(name) else ""


def _says_nothing(name: str) -> bool:
    return len(name) < SHORT or _ANYONES.fullmatch(name.casefold()) is not None


def _detail(clip: Clip, entry: _Known, kinds: Sequence[str]) -> str:
    if "source" not in kinds or None in (clip.start, clip.end, entry.start, entry.end):
        return ""
    assert clip.start is not None and clip.end is not None and entry.start is not None and entry.end is not None
    apart = clip.end <= entry.start or entry.end <= clip.start
    times = f"{clip.start:g}-{clip.end:g} s, {entry.start:g}-{entry.end:g} s"
    return f"another stretch: {times}" if apart else f"overlap: {times}"


def _read_lists(paths: Sequence[Path]) -> dict[str, set[str]]:
    if not paths:
        return {}
    from atr.datasets.exclusions import read_exclusions

    return {str(path): read_exclusions(path) for path in paths}


def _merged(leaks: Sequence[Leak]) -> list[Leak]:
    """One leak for each pair, with all its kinds."""
    pairs: dict[tuple[str, str], Leak] = {}
    for leak in leaks:
        pair = leak.train, leak.evaluation
        if (before := pairs.get(pair)) is not None:
            detail = "; ".join(filter(None, (before.detail, leak.detail)))
            leak = Leak(*pair, (*before.by, *leak.by), detail, leak.number)
        pairs[pair] = leak
    return list(pairs.values())


def summary(found: Found) -> str:
    """What was found, in a line: `2 of 3839 training clips are in an evaluation set (2 by id, 1 by source)`."""
    if not found.clips:
        return f"none of {found.compared} training clips was found in an evaluation set"
    kinds = Counter(kind for _, kind in dict.fromkeys((leak.train, kind) for leak in found.leaks for kind in leak.by))
    said = [f"{count} by {kind}" for kind, count in kinds.items()]
    said += [f"all {len(numbers)} of {place}, which is given on both sides" for place, numbers in found.same.items()]
    return (
        f"{found.clips} of {found.compared} training clips are in an evaluation set or on an exclusion list "
        f"({', '.join(said)})"
    )


def as_json(found: Found) -> str:
    """All of it, for programs."""
    leaks: list[dict[str, Any]] = [
        {name: value for name, value in asdict(leak).items() if name != "number"} for leak in found.leaks
    ]
    same = {place: len(numbers) for place, numbers in found.same.items()}
    content = {
        "compared": found.compared, "clips": found.clips, "leaks": leaks, "same": same,
        "unmatchable": found.unmatchable, "bad": [asdict(one) for one in found.bad],
    }  # fmt: skip
    return json.dumps(content, indent=2, ensure_ascii=False)


def print_leaks(found: Found, by: Sequence[str]) -> None:
    """A table of the first leaks, and what could not be compared."""
    console = Console()
    if found.leaks:
        table = Table()
        for title in ("training clip", "is in", "by", "detail"):
            table.add_column(title, overflow="fold")
        for leak in found.leaks[:SHOWN]:
            table.add_row(*map(Text, (leak.train, leak.evaluation, ", ".join(leak.by), leak.detail)))
        console.print(table)
        if len(found.leaks) > SHOWN:
            print(f"… and {len(found.leaks) - SHOWN} more; --json prints all")
    print(summary(found))
    if "fingerprint" in by:
        print(f"cannot be fingerprinted (too short, silent or steady): {found.unmatchable} clips of both sides")
    for one in found.bad[:SHOWN]:
        print(f"not compared: {one.key}: {one.reason}")
    if len(found.bad) > SHOWN:
        print(f"… and {len(found.bad) - SHOWN} more that were not compared")
