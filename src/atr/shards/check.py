"""Shards -> what is wrong with them: every sample decoded, and compared with all others.

While it runs, FACTS (45 bytes) and the key of each clip are kept, and 16 bytes each to find equals; a finding takes
some 300 bytes.
"""

import functools
import itertools
import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from atr.errors import DataError, UsageError
from atr.shards.compare import captions, equals, overlaps, rates
from atr.shards.examine import Examined, examine_shard
from atr.shards.find import find_shards, missing
from atr.shards.forks import available_processors, run_forked
from atr.shards.index import index_path, read_index
from atr.shards.progress import clip_bar
from atr.shards.quarantine import Quarantined, rows_of_others, write_quarantine
from atr.shards.remote import is_remote
from atr.shards.transfer import shown

# What a kind means, and whether it is a problem (True) or a notice, which leaves the exit status 0.
KINDS = {
    "unreadable": ("no sound, or sound or json that cannot be read to its end; a tar that is not as it was", True),
    "not-finite": ("NaN or infinite samples", True),
    "silent": ("peak below -60 dBFS, beside a constant offset", True),
    "too-short": ("shorter than --min-seconds", True),
    "no-caption": ("neither caption nor label; or only labels, where others in the folder have captions", True),
    "not-utf8": ("json that is no UTF-8, or a text that was decoded wrongly", True),
    "duplicate-audio": ("the same decoded samples as an earlier sample", True),
    "overlap": ("shares a stretch of its source with another sample", True),
    "wrong-rate": ("another rate than --sample-rate (a problem), or than most samples", False),
    "clipped": ("over 0.1 % of the samples at full scale, in runs of 3 or more", False),
    "same-source": ("the same `source` as an earlier sample", False),
}
EXAMPLES = 3  # of a kind, in the table


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a sample; `key` is in brackets where it is no sample's."""

    shard: str
    key: str
    kind: str
    detail: str


@dataclass
class Report:
    """All that was found, in the order of shards and samples.

    Attributes:
        shards, clips, seconds: how many were read, and their sound, s.
        elapsed: s.
        findings: problems and notices.
        problems: the kinds that are problems.
        settings: what was asked for.
    """

    shards: int
    clips: int
    seconds: float
    elapsed: float
    findings: list[Finding]
    problems: frozenset[str]
    settings: dict[str, Any]

    @property
    def bad(self) -> list[Finding]:
        """The problems."""
        return [one for one in self.findings if one.kind in self.problems]

    def as_json(self) -> dict[str, Any]:
        """Totals, counts by kind, findings and settings, as plain values."""
        counts = Counter(one.kind for one in self.findings)
        hours, speed = round(self.seconds / 3600, 4), round(self.clips / max(self.elapsed, 1e-9), 1)
        bad = len({(one.shard, one.key) for one in self.bad})
        totals = {"shards": self.shards, "clips": self.clips, "hours": hours, "samples_with_problems": bad}
        return {
            "totals": totals | {"seconds_taken": round(self.elapsed, 2), "clips_per_second": speed},
            "counts": {kind: counts[kind] for kind in KINDS},
            "problems": [kind for kind in KINDS if kind in self.problems],
            "findings": [asdict(one) | {"problem": one.kind in self.problems} for one in self.findings],
            "settings": self.settings,
        }


def check_shards(
    places: Sequence[str | Path],
    min_seconds: float = 0.1,
    sample_rate: int | None = None,
    allow: Sequence[str] = (),
    strict: Sequence[str] = (),
    quarantine: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Reads everything in the shards, those in quarantine, too, and decodes it; changes none of them.

    A folder without any caption is a labelled set, in which a label is enough. Of duplicates and of clips of one
    source, all but the first are named. Times overlap only in the same file of a source, and if the json tells them.

    Args:
        places: shard folders or tars on this machine.
        min_seconds: shorter sound is too short, s.
        sample_rate: that all should have, Hz; None: that of most samples.
        allow: kinds that are no problem.
        strict: kinds that are one.
        quarantine: writes `quarantine.jsonl` beside the shards of each folder: the samples with problems, which
            training and evaluation then leave out. It replaces what an earlier one says of these shards.
        workers: processes; None for one per processor.
        progress: shows a bar on a terminal (stderr).

    Raises:
        DataError: nothing is there, a place is remote, a sample ended a worker, or a quarantine cannot be written.
        UsageError: an unknown kind, or a setting out of range.
    """
    problems = _problems(allow, strict, sample_rate)
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}; it must be 1 or more")
    if min_seconds < 0:
        raise UsageError(f"min_seconds is {min_seconds}; it must be 0 or more")
    began = time.monotonic()
    folders = _find(places)
    tars = [tar for found in folders.values() for tar in found]
    names: dict[Path, list[str]] = {}
    for tar in tars:
        names.setdefault(Path(tar).parent, []).append(Path(tar).name)
    if quarantine:  # what stops it should do so before the work
        for folder, checked in names.items():
            rows_of_others(folder, checked)
    with clip_bar(_count(tars) if progress else None, progress) as on_clip:
        tasks = [functools.partial(examine_shard, Path(tar), min_seconds) for tar in tars]
        done = run_forked(tasks, workers or available_processors(), on_clip, functools.partial(_where, tars))
    shards = dict(zip(tars, done, strict=True))
    findings = _findings(folders, shards, sample_rate)
    settings = {
        "places": list(folders), "min_seconds": min_seconds, "sample_rate": sample_rate, "allow": list(allow),
        "strict": list(strict),
    }  # fmt: skip
    report = Report(
        len(tars), sum(len(one.keys) for one in done), sum(one.seconds for one in done), time.monotonic() - began,
        findings, problems, settings,
    )  # fmt: skip
    if quarantine:
        for folder, checked in names.items():
            write_quarantine(folder, _rows(report, shards, folder), checked)
    return report


def _problems(allow: Sequence[str], strict: Sequence[str], sample_rate: int | None) -> frozenset[str]:
    for kind in [*allow, *strict]:
        if kind not in KINDS:
            raise UsageError(f"there is no kind of finding {kind!r}; allowed: {', '.join(KINDS)}")
    if both := set(allow) & set(strict):
        raise UsageError(f"{both.pop()!r} cannot be allowed and strict at once; name it once")
    own = {kind for kind, (_, problem) in KINDS.items() if problem} | ({"wrong-rate"} if sample_rate else set())
    return frozenset((own | set(strict)) - set(allow))


def _find(places: Sequence[str | Path]) -> dict[str, list[str]]:
    """Place -> its tars, each once."""
    folders: dict[str, list[str]] = {}
    seen: set[Path] = set()
    for place in places:
        if is_remote(str(place)):
            raise DataError(f"{shown(str(place))} is remote; check reads shards on this machine: copy them first")
        for tar in find_shards(place):
            if (path := Path(tar).resolve()) not in seen:
                seen.add(path)
                folders.setdefault(str(place), []).append(tar)
    return folders


def _count(tars: Sequence[str]) -> int | None:
    """The clips of all tars, if all have an index."""
    total = 0
    for tar in tars:
        if (index := read_index(index_path(Path(tar)), tar)) is None:
            return None
        total += len(index)
    return total


def _where(tars: list[str], number: int, done: int) -> str:
    """A sample, for messages."""
    index = read_index(index_path(Path(tars[number])), tars[number])
    return f"{tars[number]}: " + (index.key(done) if index and done < len(index) else f"sample {done + 1}")


def _findings(folders: dict[str, list[str]], shards: dict[str, Examined], rate: int | None) -> list[Finding]:
    """What each shard's examination found, and what comparing them finds; by shard, sample and kind."""
    tars, keys = list(shards), [one.keys for one in shards.values()]
    starts = np.cumsum([0, *(len(one) for one in keys)])
    order = list(KINDS).index
    rows: list[tuple[int, int, int, str, Finding]] = []  # sorted by the first four
    for number, (tar, one) in enumerate(shards.items()):
        place = {key.decode(): row for row, key in enumerate(keys[number].tolist())} if one.faults else {}
        for fault in one.faults:
            found = Finding(tar, fault.key, fault.kind, fault.detail)
            rows.append((number, place.get(fault.key, -1), order(fault.kind), fault.key, found))
    facts = np.concatenate([one.facts for one in shards.values()])

    def name(at: int) -> tuple[str, str, int, int]:
        number = int(np.searchsorted(starts, at, side="right")) - 1
        row = at - int(starts[number])
        return tars[number], keys[number][row].decode(), number, row

    held = {Path(tar).resolve(): (len(one.keys), one.lost) for tar, one in shards.items()}
    for folder in folders:
        counts = {tar: held[Path(tar).resolve()] for tar in find_shards(folder)}  # as this folder spells them
        for lost in missing(counts, folder):
            number = tars.index(lost.key) if lost.key in shards else len(tars)
            rows.append((number, -1, 0, "", Finding(lost.key, "(missing)", "unreadable", lost.reason)))
    of_folder = np.repeat(np.arange(len(folders)), [sum(len(shards[t].keys) for t in f) for f in folders.values()])
    alone = itertools.chain(rates(facts, rate), captions(facts, of_folder))
    for at, kind, detail, other in itertools.chain(alone, equals(facts), overlaps(facts)):
        tar, key, number, row = name(at)
        text = detail if other is None else f"{detail} {':'.join(name(other)[:2])}"
        rows.append((number, row, order(kind), key, Finding(tar, key, kind, text)))
    return [row[-1] for row in sorted(rows, key=lambda row: row[:4])]


def _rows(report: Report, shards: dict[str, Examined], folder: Path) -> list[Quarantined]:
    """Each sample of a folder once, with all its problems; what is no sample cannot be left out."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in report.bad:
        if one.shard in shards and Path(one.shard).parent == folder:
            reasons.setdefault((one.shard, one.key), []).append(f"{one.kind}: {one.detail}")
    return [
        Quarantined(Path(tar).name, key, "; ".join(why))
        for (tar, key), why in reasons.items()
        if key.encode() in shards[tar].keys
    ]


def write_report(report: Report, path: Path) -> None:
    """Writes `Report.as_json`, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: the findings cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def print_report(report: Report) -> None:
    """A table: kind, how many, the first few."""
    counts, totals = Counter(one.kind for one in report.findings), report.as_json()["totals"]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("kind", no_wrap=True)
    table.add_column("count", justify="right")
    table.add_column("first of them", overflow="fold")
    for kind in sorted(KINDS, key=lambda kind: kind not in report.problems):
        first = itertools.islice((one for one in report.findings if one.kind == kind), EXAMPLES)
        lines = "\n".join(f"{one.shard}:{one.key}: {one.detail}" for one in first)
        if counts[kind]:
            table.add_row("problem" if kind in report.problems else "notice", kind, str(counts[kind]), escape(lines))
    if report.findings:
        Console().print(table, highlight=False)
    print(
        f"{totals['clips']} clips in {report.shards} shards, {totals['hours']:.2f} h, read in {report.elapsed:.1f} s "
        f"({totals['clips_per_second']:.0f} clips/s): {totals['samples_with_problems']} with problems"
    )
