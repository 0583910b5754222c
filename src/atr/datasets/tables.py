"""Reads csv tables row by row. A damaged row is named by file and line; the others are read."""

import csv
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from atr.errors import DataError
from atr.types import BadSample

LONGEST_CELL = 1 << 24  # characters
_SPREADSHEET_ERROR = re.compile(r"#(NAME\?|REF!|VALUE!|N/A|NUM!|DIV/0!|NULL!)")
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")


@dataclass(frozen=True)
class Row:
    """A row of a table: its cells by column, and where it stands (`file:line`) for messages."""

    where: str
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    header: Sequence[str] | None = None,
    delimiter: str = ",",
    encoding: str = "utf-8",
    comment: str = "",
    skip_blanks: bool = False,
) -> Iterator[Row | BadSample]:
    """The rows of a csv file, cells stripped of blanks around them. The file is never held in memory.

    A byte order mark is understood (UTF-8 and UTF-16, whatever `encoding` says), and so are quoted cells with line
    ends in them. A row with too few or too many cells, with bytes that are not of the encoding, or with a
    spreadsheet's error (`#NAME?`) in one of `columns` is a BadSample called `file:line`.

    Args:
        path: the table.
        columns: those that must be there.
        header: the names of the columns where the file has no line of them.
        delimiter: between cells.
        encoding: of the file, e.g. `cp949`, `latin-1`.
        comment: lines that begin with it are skipped.
        skip_blanks: a blank after a delimiter does not belong to the cell, quoted or not (AudioSet's tables).

    Raises:
        DataError: the file cannot be read, the encoding is unknown, or a column is missing.
    """
    csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding=_encoding(path, encoding), errors="surrogateescape", newline="") as file:
            lines = _Lines(file, comment)
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=skip_blanks)
            names = [name.strip() for name in (header or next(reader, []))]
            if absent := [name for name in columns if name not in names]:
                raise DataError(
                    f"{path}: has no column {', '.join(map(repr, absent))}; its columns are "
                    f"{', '.join(map(repr, names)) or 'none: the file is empty'}"
                )
            while True:
                start = lines.number + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield BadSample(f"{path}:{lines.number}", f"is no row of a csv table ({error})")
                    continue
                if cells:
                    yield _row(f"{path}:{max(start, lines.first)}", cells, names, columns, encoding)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except LookupError:
        raise DataError(f"{path}: no encoding is called {encoding!r}; try utf-8, cp949 or latin-1") from None


def youtube_id(text: str) -> str | None:
    """The eleven characters of a YouTube id, or None. Blanks around it do not count.

    >>> youtube_id(" -0DdlOuIFUI")
    '-0DdlOuIFUI'
    """
    text = text.strip()
    return text if _YOUTUBE_ID.fullmatch(text) else None


def youtube_id_after_y(text: str) -> str | None:
    """The YouTube id of a text that may have the letter Y before it, as in AudioSet's file names, or None.

    >>> youtube_id_after_y("Y-0DdlOuIFUI"), youtube_id_after_y("-0DdlOuIFUI")
    ('-0DdlOuIFUI', '-0DdlOuIFUI')
    """
    text = text.strip()
    return youtube_id(text[1:] if len(text) == 12 and text[0] == "Y" else text)


class Seen:
    """Tells whether a text came before. The texts lie in a temporary database, because they may be millions."""

    def __init__(self) -> None:
        self._texts = sqlite3.connect("")  # a temporary file of SQLite's own, gone with the connection
        self._texts.execute("CREATE TABLE texts (text TEXT PRIMARY KEY) WITHOUT ROWID")

    def __call__(self, text: str) -> bool:
        """Did it? From now on it did."""
        return self._texts.execute("INSERT OR IGNORE INTO texts VALUES (?)", (text,)).rowcount == 0


def seconds(text: str, where: str) -> float | BadSample:
    """A time in seconds of 0 or more, or what is wrong with it."""
    try:
        value = float(text)
    except ValueError:
        return BadSample(where, f"{text!r} is no number of seconds")
    return value if 0 <= value < 1e9 else BadSample(where, f"{text} s is no time in a recording")


class _Lines:
    """Hands lines to the csv reader and knows their numbers."""

    def __init__(self, file: Iterator[str], comment: str) -> None:
        self.file, self.comment = file, comment
        self.number = self.first = 0  # of the last line, and of the last one that began a row

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.number += 1
            if self.comment and line.startswith(self.comment):
                self.first = self.number + 1
                continue
            yield line.replace("\0", "")


def _row(where: str, cells: list[str], names: list[str], columns: Sequence[str], encoding: str) -> Row | BadSample:
    if len(cells) != len(names):
        return BadSample(where, f"has {len(cells)} cells instead of {len(names)}")
    for name, cell in zip(names, cells, strict=True):
        if name not in columns:
            continue
        if _is_damaged(cell):
            return BadSample(
                where,
                f"{name!r} holds bytes that are not {encoding} ({cell[:40].encode(errors='surrogateescape')!r}); "
                "give the table's encoding, e.g. --encoding cp949 or latin-1",
            )
        if _SPREADSHEET_ERROR.fullmatch(cell.strip()):
            return BadSample(
                where, f"{name!r} is {cell.strip()}, which a spreadsheet put there; take the original table"
            )
    return Row(where, {name: cell.strip() for name, cell in zip(names, cells, strict=True)})


def _is_damaged(cell: str) -> bool:
    return not cell.isascii() and any("\udc80" <= letter <= "\udcff" for letter in cell)


def _encoding(path: Path, encoding: str) -> str:
    with path.open("rb") as file:
        head = file.read(3)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "utf-8-sig" if head == b"\xef\xbb\xbf" else encoding
