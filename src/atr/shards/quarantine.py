"""`quarantine.jsonl` beside the shards of a folder: the samples that are left out on purpose, with the reason."""

import json
import os
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atr.errors import DataError
from atr.shards.index import ShardIndex
from atr.shards.remote import is_remote

FILE = "quarantine.jsonl"
FIELDS = ("shard", "key", "reason")


@dataclass(frozen=True)
class Quarantined:
    """A row: the tar's name within the folder, the sample's key, why it is left out."""

    shard: str
    key: str
    reason: str


def read_quarantine(folder: Path) -> list[Quarantined]:
    """The rows of a folder's file, in its order; none when there is no file.

    Raises:
        DataError: a line is no such row; the message names file and line.
    """
    path = folder / FILE
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return [_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _row(line: bytes, where: str) -> Quarantined:
    again = "mend the line, or write the file again with: atr check FOLDER --quarantine"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is no JSON ({error}); {again}") from error
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in FIELDS):
        raise DataError(f"{where}: is {line[:80]!r}; allowed is an object with {', '.join(FIELDS)} as text; {again}")
    return Quarantined(*(row[name] for name in FIELDS))


def rows_of_others(folder: Path, checked: Iterable[str]) -> list[Quarantined]:
    """The rows of a folder's file that speak of other tars than the `checked` ones (names).

    Raises:
        DataError: there are such tars, and the file is damaged; or it could not be written.
    """
    if not os.access(folder, os.W_OK):
        raise DataError(f"{folder}: {FILE} cannot be written there; make it writable, or check without --quarantine")
    others = {tar.name for tar in folder.glob("*.tar")} - set(checked)
    return [row for row in read_quarantine(folder) if row.shard in others] if others else []


def write_quarantine(folder: Path, rows: Sequence[Quarantined], checked: Iterable[str]) -> None:
    """Replaces what the folder's file says of the `checked` tars (names); whole or not at all.

    Rows of its other tars stay. Without any row there is no file.

    Raises:
        DataError: as `rows_of_others`.
        OSError: the disk is full.
    """
    path = folder / FILE
    ordered = sorted([*rows_of_others(folder, checked), *rows], key=lambda row: row.shard)
    lines = [json.dumps(vars(row), ensure_ascii=False) + "\n" for row in ordered]
    if not lines:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_name(f".{FILE}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def left_out(indexes: Iterable[ShardIndex]) -> dict[str, dict[int, str]]:
    """Tar -> its rows that are in quarantine, with the reasons. Only files on this machine are looked for.

    Warns of rows that name no tar of the folder, or no sample of the tar.

    Raises:
        DataError: a file is damaged.
    """
    folders: dict[Path, dict[str, ShardIndex]] = {}
    for index in indexes:
        if not is_remote(index.place):
            folders.setdefault(Path(index.place).parent, {})[Path(index.place).name] = index
    found: dict[str, dict[int, str]] = {}
    for folder, opened in folders.items():
        rows: dict[str, dict[str, str]] = {}
        for row in read_quarantine(folder):
            rows.setdefault(row.shard, {})[row.key] = row.reason
        stray = []
        for shard, reasons in rows.items():
            if shard in opened:
                held = found[opened[shard].place] = _numbers(opened[shard], reasons)
                gone = {one.key for one in opened[shard].lost}
                known = {opened[shard].key(number) for number in held} | gone
                stray += [f"{shard}:{key}" for key in reasons if key not in known]
            elif shard not in {tar.name for tar in folder.glob("*.tar")}:
                stray += [f"{shard}:{key}" for key in reasons]
        if stray:
            warnings.warn(
                f"{folder / FILE}: {len(stray)} rows match no sample, e.g. {stray[0]}; if the shards were written "
                "again, write it again, too: atr check FOLDER --quarantine",
                stacklevel=3,
            )
    return found


def _numbers(index: ShardIndex, reasons: Mapping[str, str]) -> dict[int, str]:
    wanted = {key.encode(errors="backslashreplace"): reason for key, reason in reasons.items()}
    rows = np.flatnonzero(np.isin(index.keys, list(wanted)))
    return {int(row): wanted[bytes(index.keys[row])] for row in rows}
