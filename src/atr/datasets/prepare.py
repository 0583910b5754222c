"""`atr prepare`: all splits of a corpus -> shards, or manifests alone."""

import codecs
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Corpus, MissingSplit, Raw, corpus_names, find_corpus
from atr.datasets.manifest import read_manifest, write_manifest
from atr.errors import AtrError, DataError, UsageError
from atr.shards.plan import as_reject, line_of
from atr.shards.prepare import MANIFEST, REJECTED, REMARKS, WORK, Settings, kind_of, prepare
from atr.shards.progress import clip_bar
from atr.types import BadSample, Clip

NO_CAPTIONS = 'training needs captions, zero-shot evaluation only labels (README, "Labels as captions")'
OWN_TABLES = ("csv", "hf", "jsonl", "parquet")


@dataclass
class Prepared:
    """What became of a split: its summary, or why there is none."""

    split: str
    folder: Path
    summary: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    missing: bool = False  # the problem is that nothing of it is there


def prepare_corpus(
    name: str,
    root: Path,
    out: Path,
    settings: Settings,
    *,
    splits: Sequence[str] = (),
    audio_dir: Path | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    exclude: Sequence[Path] = (),
    tables_only: bool = False,
    workers: int | None = None,
    backend: str = "local",
    progress: bool = True,
) -> list[Prepared]:
    """Writes each split of a corpus into a folder of its own, `out/<split>`. A split that cannot be is reported.

    Args:
        name: of the corpus, a module of `atr.datasets`.
        root: the publisher's files.
        out: see `atr.shards.prepare.prepare` for what each folder then holds.
        settings: how clips are stored.
        splits: which ones; all of them when empty.
        audio_dir: where the sounds are; below `root` when None.
        columns: of a table of the user's, field -> column.
        encoding: of such a table.
        exclude: lists of sources to leave out, see `read_exclusions`.
        tables_only: reads no sound and writes manifests only, of all clips that are listed.
        workers: processes.
        backend: `local` or `ray`.
        progress: shows bars on a terminal.

    Raises:
        UsageError: no such corpus or split, or settings that make no sense.
        DataError: no split could be prepared, or one that was asked for by name.
    """
    corpus = find_corpus(name)
    if not root.exists():
        raise DataError(f"{root} does not exist; --root is where the files of {corpus.CARD.name} lie")
    settings.check()
    _check_own(name, columns or {}, encoding)
    root = root.resolve()
    folder = None if tables_only else (audio_dir or (root if root.is_dir() else root.parent)).resolve()
    raw = Raw(root, AudioFiles(folder), columns or {}, encoding)
    sources = _excluded(exclude)
    done = []
    for split in _splits(corpus, raw, splits):
        one = Prepared(split, out / split)
        try:
            with _told(one.folder):
                rows = corpus.read(raw, split)
                if tables_only:
                    one.summary = _list(rows, one.folder, sources, progress)
                else:
                    one.summary = prepare(
                        rows, one.folder, settings, exclude=sources, workers=workers, backend=backend, progress=progress
                    )
        except DataError as error:
            one.problem, one.missing = str(error), isinstance(error, MissingSplit)
        done.append(one)
    failed = [one for one in done if one.problem]
    if failed and (splits or len(failed) == len(done)):
        raise DataError("\n".join(f"{one.split}: {one.problem}" for one in failed))
    return done


def shard_manifest(
    manifest: Path,
    out: Path,
    settings: Settings,
    *,
    exclude: Sequence[Path] = (),
    workers: int | None = None,
    backend: str = "local",
    progress: bool = True,
) -> Prepared:
    """Writes the clips of a manifest into shards; relative paths in it start at its folder. See `prepare_corpus`.

    Raises:
        DataError: the manifest cannot be read, or no clip can be stored.
    """
    sources = _excluded(exclude)
    with _told(out):
        summary = prepare(
            _listed(manifest), out, settings, exclude=sources, workers=workers, backend=backend, progress=progress
        )
    return Prepared(out.name, out, summary)


def _listed(manifest: Path) -> Iterator[Clip | BadSample]:
    here, bad = manifest.resolve().parent, list[BadSample]()
    for clip in read_manifest(manifest, bad):
        yield from bad
        bad.clear()
        yield replace(clip, audio=str(here / clip.audio))
    yield from bad


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turns what stops the writing of a folder into a message."""
    try:
        yield
    except KeyboardInterrupt:
        whole = len(list(folder.glob("*.tar")))
        raise AtrError(
            f"stopped; {whole} shards are whole in {folder}, and the same command goes on with the others"
        ) from None
    except (OSError, sqlite3.Error) as error:  # of no split alone: it ends the command
        raise AtrError(
            f"{folder}: cannot be written ({error}); free space and run it again, or choose another --out"
        ) from error


def print_prepared(done: Sequence[Prepared]) -> None:
    """A table of the splits, and why clips were left out."""
    table = Table()
    for column in ("split", "listed", "stored", "hours", "captions", "words", "shards"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for one in done:
        numbers = [one.summary.get(name, "") for name in ("listed", "clips", "hours", "captions", "words", "shards")]
        table.add_row(one.split, *map(str, numbers if not one.problem else ["not there" if one.missing else "failed"]))
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    for one in done:
        if one.problem:
            console.print(f"{one.split}: {one.problem}", markup=False)
        for reason, count in one.summary.get("rejected", {}).items():
            console.print(f"{one.split}: {count} left out: {reason}", markup=False)
        if one.summary.get("rejected"):
            console.print(f"{one.split}: each of them in {one.folder / REJECTED}", markup=False)
        if (one.folder / REMARKS).is_file():
            console.print(f"{one.split}: remarks in {one.folder / REMARKS}", markup=False)
        if clipped := one.summary.get("clipped_samples"):
            console.print(f"{one.split}: {clipped} waveform samples lay beyond full scale and were clipped")
        if one.summary.get("clips") and not one.summary["captions"]:
            console.print(f"{one.split}: no clip has a caption; {NO_CAPTIONS}", markup=False)


def print_corpora() -> None:
    """The corpora, a row each."""
    table = Table("corpus", "name", "splits", "layout")
    for name in corpus_names():
        card = find_corpus(name).CARD
        splits = ", ".join(card.splits) if len(card.splits) < 6 else f"{card.splits[0]} … {card.splits[-1]}"
        table.add_row(name, card.name, splits, "unverified" if card.unverified else "")
    Console().print(table)


def print_card(name: str) -> None:
    """All that is known of a corpus."""
    card = find_corpus(name).CARD
    rows = {
        "name": card.name, "homepage": card.homepage, "licence": card.licence, "splits": ", ".join(card.splits),
        "captions": card.captions, "citation": card.citation, "known faults": "\n".join(card.faults),
        "unverified": card.unverified, "downloads": "\n".join(f"{one.url} -> {one.path}" for one in card.downloads),
    }  # fmt: skip
    table = Table(show_header=False)
    for what, value in rows.items():
        if value:
            table.add_row(what, Text(value, overflow="fold"))
    Console(soft_wrap=False).print(table)


def _check_own(name: str, columns: Mapping[str, str], encoding: str) -> None:
    """Refuses what would be passed over."""
    if columns and name not in OWN_TABLES:
        raise UsageError(f"--column is for tables of your own ({', '.join(OWN_TABLES)}); {name} knows its columns")
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise UsageError(f"no encoding is called {encoding!r}; try utf-8, cp949 or latin-1") from None


def _splits(corpus: Corpus, raw: Raw, wanted: Sequence[str]) -> Sequence[str]:
    found = getattr(corpus, "splits", None)
    known = found(raw) if found else corpus.CARD.splits
    if unknown := [split for split in wanted if split not in known]:
        raise UsageError(f"{corpus.CARD.name} has no split {unknown[0]!r}; there are: {', '.join(known)}")
    return wanted or known


def _excluded(lists: Sequence[Path]) -> frozenset[str]:
    if not lists:
        return frozenset()
    from atr.datasets.exclusions import read_exclusions

    return frozenset().union(*(read_exclusions(path) for path in lists))


def _list(rows: Iterator[Clip | BadSample], folder: Path, exclude: frozenset[str], progress: bool) -> dict[str, Any]:
    """A manifest of what a corpus's tables list, without a look at the sound."""
    if (folder / WORK).exists() or any(folder.glob("*.tar")):
        raise DataError(f"{folder} holds shards, whose manifest it would replace; choose another --out for the tables")
    folder.mkdir(parents=True, exist_ok=True)
    counts, reasons = {"listed": 0, "clips": 0, "captions": 0}, Counter[str]()
    rejected, remarks = folder / REJECTED, folder / REMARKS

    def clips() -> Iterator[Clip]:
        with clip_bar(None, progress, "rows") as on_row, rejected.open("wb") as rejects, remarks.open("wb") as remarked:
            for row in rows:
                on_row()
                if isinstance(row, Clip) and isinstance(line := line_of(row, exclude), BadSample):
                    row = line
                if isinstance(row, BadSample):
                    (rejects if row.clips else remarked).write(as_reject(row))
                    counts["listed"] += row.clips
                    reasons.update([kind_of(row.reason)] if row.clips else [])
                    continue
                counts["listed"] += 1
                counts["clips"] += 1
                counts["captions"] += len(row.captions)
                yield row

    write_manifest(clips(), folder / MANIFEST)
    for path in (rejected, remarks):
        if not path.stat().st_size:
            path.unlink()
    return counts | {"rejected": dict(reasons.most_common())}
