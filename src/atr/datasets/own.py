"""What the readers of the user's own tables share: a row whose columns the user names -> a clip."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw
from atr.datasets.tables import seconds
from atr.errors import DataError, UsageError
from atr.types import BadSample, Clip

FIELDS = ("id", "audio", "caption", "label", "split", "title", "start", "end", "source", "licence")
ALL = "all"  # the split of what names none
_FOLDER_NAME = re.compile(r"\w[\w.-]*")
Record = tuple[str, Mapping[str, Any]]  # where it stands, and its values by column


@dataclass
class Columns:
    """Which columns hold the fields of a clip.

    Args:
        given: field -> name of the column, or several with commas between them. A field that is not given is in the
            column of its name, or of its plural.
        fields: those that may be given.
        table: for messages.

    Raises:
        UsageError: a given field is none.
    """

    given: Mapping[str, str]
    table: Path
    fields: Sequence[str] = FIELDS
    names: dict[str, list[str]] = field(init=False)
    missing: set[str] = field(init=False)  # given columns that no row has had so far

    def __post_init__(self) -> None:
        singular = {f"{name}s": name for name in self.fields}
        self.names = {}
        for name, columns in self.given.items():
            if (one := singular.get(name, name)) not in self.fields:
                raise UsageError(f"{name!r} is no field that a column can be given for; there are: {self._allowed()}")
            self.names[one] = [column.strip() for column in columns.split(",") if column.strip()]
        self.missing = {column for columns in self.names.values() for column in columns}

    def values(self, row: Mapping[str, Any], name: str) -> list[Any]:
        """What a row holds for a field: the values that are not empty, lists taken apart."""
        values: list[Any] = []
        for column in self.names.get(name) or (name if name in row else f"{name}s",):
            if column in row:
                self.missing.discard(column)
                value = row[column]
                for one in value if isinstance(value, list | tuple) else (value,):
                    text = one.strip() if isinstance(one, str) else one
                    if text not in (None, "") and text == text:  # NaN is empty, too
                        values.append(text)
        return values

    def check(self, there: Iterable[str]) -> None:
        """Are the given columns among those of the table?

        Raises:
            DataError: one is not.
        """
        there = list(there)
        if absent := sorted(self.missing - set(there)):
            found = ", ".join(map(repr, there)) or "none"
            raise DataError(f"{self.table}: has no column {absent[0]!r}; its columns are {found}")

    def _allowed(self) -> str:
        return ", ".join(self.fields)


def find_table(root: Path, *suffixes: str) -> Path:
    """The table: `root` itself, or the only one in the folder `root`.

    Raises:
        DataError: there is none.
        UsageError: there are several.
    """
    if root.is_file():
        return root
    if not root.is_dir():
        raise DataError(f"{root} does not exist; give the table, or the folder that it is in")
    found = sorted(one for one in root.iterdir() if one.suffix.lower() in suffixes and not one.name.startswith("."))
    if not found:
        raise DataError(f"{root}: holds no table ({', '.join(f'*{one}' for one in suffixes)})")
    if len(found) > 1:
        raise UsageError(f"{root}: holds {len(found)} tables ({found[0].name}, {found[1].name}, …); give one of them")
    return found[0]


def sounds(raw: Raw, table: Path) -> AudioFiles:
    """Where the sounds are: below the folder of the table, unless the user names another one."""
    return AudioFiles(table.parent) if raw.audio.folder in (raw.root, table) else raw.audio


def splits_of(rows: Iterable[Record | BadSample], columns: Columns) -> tuple[str, ...]:
    """The distinct splits in the order in which they appear; `all` where no row names one."""
    found: dict[str, None] = {}
    for row in rows:
        if not isinstance(row, BadSample) and isinstance(split := _split(row, columns), str):
            found[split] = None
    return tuple(found) or (ALL,)


def rows_of(rows: Iterable[Record | BadSample], columns: Columns, split: str) -> Iterator[Record | BadSample]:
    """The rows of a split. Those whose split cannot be told come with the first split, so that they come once."""
    first: str | None = None
    waiting: list[BadSample] = []
    for row in rows:
        its = row if isinstance(row, BadSample) else _split(row, columns)
        if isinstance(its, BadSample):
            if first is None:
                waiting.append(its)
            elif first == split:
                yield its
            continue
        if first is None:
            first = its
            yield from waiting if first == split else ()
        if its == split and not isinstance(row, BadSample):
            yield row
    if first is None and split == ALL:
        yield from waiting


def clip_of(row: Record, columns: Columns, split: str, folder: Path | None) -> Clip | BadSample:
    """The clip of a row: `audio` below `folder`, if it can be; without an `id`, that is `audio` without suffix."""
    where, values = row
    texts = {name: _one(columns, values, name) for name in ("id", "audio", "title", "source", "licence")}
    times = {name: _time(columns, values, name, where) for name in ("start", "end")}
    captions, labels = columns.values(values, "caption"), columns.values(values, "label")
    for wrong in times.values():
        if isinstance(wrong, BadSample):
            return wrong
    start, end = (time if isinstance(time, float) else None for time in times.values())
    if start is not None and end is not None and end <= start:
        return BadSample(where, f"ends at {end:g} s, which is not after its start, {start:g} s")
    if wrong := next((one for one in captions if not isinstance(one, str)), None):
        return BadSample(where, f"has the caption {wrong!r}, which is no text")
    if any(isinstance(one, dict | bytes) for one in columns.values(values, "audio")):
        return BadSample(where, "holds the sound itself, not the name of its file; read the folder as hf")
    if not texts["audio"]:
        return BadSample(where, "names no sound file (field audio)")
    texts["audio"] = _below(texts["audio"], folder)
    name = re.sub(r"\.\w{2,4}$", "", texts["audio"].replace("\\", "/").removeprefix("./"))
    name = name.rpartition("/")[2] if name.startswith("/") else name
    texts["id"] = texts["id"] or (name if start is None else f"{name}_{start:g}")
    named: dict[str, Any] = dict(texts)
    return Clip(**named, captions=captions, labels=[str(one) for one in labels], split=split, start=start, end=end)


def _below(name: str, folder: Path | None) -> str:
    """An absolute path that lies below the folder of the sounds, as the part below it."""
    if folder is not None and Path(name).is_absolute() and Path(name).is_relative_to(folder.absolute()):
        return str(Path(name).relative_to(folder.absolute()))
    return name


def read_rows(raw: Raw, table: Path, rows: Iterable[Record | BadSample], split: str) -> Iterator[Clip | BadSample]:
    """The clips of a split of a table.

    Raises:
        DataError: a column that the user gave is in no row.
    """
    columns, audio, there = Columns(raw.columns, table), sounds(raw, table), dict[str, None]()
    for row in rows_of(_noted(rows, there), columns, split):
        clip = row if isinstance(row, BadSample) else clip_of(row, columns, split, audio.folder)
        yield clip if isinstance(clip, BadSample) else audio.named(clip, clip.audio)
    if there:  # or no row could be read, which says more than a missing column
        columns.check(there)


def _noted(rows: Iterable[Record | BadSample], there: dict[str, None]) -> Iterator[Record | BadSample]:
    for row in rows:
        if not isinstance(row, BadSample):
            there.update(dict.fromkeys(row[1]))
        yield row


def _split(row: Record, columns: Columns) -> str | BadSample:
    split = _one(columns, row[1], "split") or ALL
    if _FOLDER_NAME.fullmatch(split):
        return split
    return BadSample(row[0], f"its split is {split!r}; letters, digits, '_', '-' and '.' are allowed")


def _one(columns: Columns, row: Mapping[str, Any], name: str) -> str:
    """A field that holds one text. Ids come as numbers, too."""
    values = columns.values(row, name)
    return str(values[0]).strip() if values else ""


def _time(columns: Columns, row: Mapping[str, Any], name: str, where: str) -> float | BadSample | None:
    text = _one(columns, row, name)
    return seconds(text, where) if text else None
