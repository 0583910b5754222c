"""Reads csv tables row by row. A damaged row is named by file and line; the others are read."""

import csv
import re
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from atr.errors import DataError
from atr.types import BadSample

LONGEST_CELL = 1 << 20  # characters; a quote that nothing closes is given up after so many
DELIMITERS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
_SPREADSHEET_ERROR = re.compile(r"#(NAME\?|REF!|VALUE!|N/A|NUM!|DIV/0!|NULL!)")
_SPREADSHEET_NUMBER = re.compile(r"\d(\.\d+)?E\+[1-9]\d{1,2}|\d\.\d\dE\+0\d")  # 1.23E+11, once an id
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_UNREADABLE = re.compile("[\udc80-\udcff]")  # a byte that is not of the encoding, as Python hands it on


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
    ends in them. A row is a BadSample called `file:line` when it has too few or too many cells, a quote too many or too
    few, or when one of `columns` holds bytes that are not of the encoding, NUL bytes, or what a spreadsheet made of an
    id (`#NAME?`, `1.23E+11`). After a quote that is not closed the next line is read as a row again. In the other
    columns, bytes that cannot be read become U+FFFD.

    Args:
        path: the table.
        columns: those that must be there.
        header: the names of the columns where the file has no line of them.
        delimiter: between cells.
        encoding: of the file, e.g. `cp949`, `latin-1`.
        comment: lines that begin with it are skipped.
        skip_blanks: a blank after a delimiter does not belong to the cell, quoted or not (AudioSet's tables).

    Raises:
        DataError: the file cannot be read, the encoding is unknown, or a column is missing or there twice.
    """
    csv.field_size_limit(LONGEST_CELL)
    try:
        with _open(path, encoding) as file:
            lines = _Lines(file, comment)
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=skip_blanks, strict=True)
            names = list(header) if header else _header(reader, path)
            _check_header(names, columns, path, delimiter, file.encoding)
            while True:
                lines.row.clear()
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield BadSample(f"{path}:{lines.first}", _no_row(error))
                    lines.again()
                    continue
                row = _row(f"{path}:{lines.first}", cells, names, columns, file.encoding)
                if len(cells) != len(names):
                    lines.again()
                yield row
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except LookupError:
        raise DataError(f"{path}: no encoding is called {encoding!r}; try utf-8, cp949 or latin-1") from None
    except UnicodeError as error:
        raise DataError(f"{path}: cannot be read as {encoding} ({error}); give its encoding with --encoding") from None


def read_header(path: Path, delimiter: str, encoding: str) -> list[str]:
    """The names of a table's columns.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    try:
        with _open(path, encoding) as file:
            return _header(csv.reader(_Lines(file, ""), delimiter=delimiter, strict=True), path)
    except (OSError, LookupError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read as {encoding} ({error}); give its encoding with --encoding") from None


def find_delimiter(path: Path, encoding: str) -> str:
    """The delimiter that is most frequent in the first line: comma, tab, semicolon or bar.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with _open(path, encoding) as file:
            line = next(_Lines(file, ""), "")
    except (OSError, LookupError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read as {encoding} ({error}); give its encoding with --encoding") from None
    return max(",\t;|", key=line.count)


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


class _Lines(Iterator[str]):
    """Hands lines to the csv reader, knows their numbers, and takes those of a broken row back."""

    def __init__(self, file: TextIO, comment: str) -> None:
        self.file, self.comment = file, comment
        self.number = 0  # of the last line
        self.row: list[str] = []  # the lines of the row that is being read
        self.waiting: deque[str] = deque()

    @property
    def first(self) -> int:
        """The number of the row's first line."""
        return self.number - max(0, len(self.row) - 1)

    def __next__(self) -> str:
        while True:
            # A file without line ends, such as one of zeros, must not come whole.
            line = self.waiting.popleft() if self.waiting else self.file.readline(2 * LONGEST_CELL)
            if not line:
                raise StopIteration
            self.number += 1
            if not self.row and (not line.strip() or (self.comment and line.startswith(self.comment))):
                continue
            self.row.append(line)
            return line

    def again(self) -> None:
        """The row's lines after the first will come again."""
        self.number = self.first
        self.waiting.extendleft(reversed(self.row[1:]))


def _no_row(error: csv.Error) -> str:
    return f"is no row of a csv table ({error}); is a quote missing, or not doubled inside a quoted cell?"


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        names = next(reader, None)
    except csv.Error as error:
        raise DataError(f"{path}: its first line {_no_row(error)}") from None
    if names is None:
        raise DataError(f"{path}: is empty; its first line should name the columns")
    return [name.strip() for name in names]


def _check_header(names: list[str], columns: Sequence[str], path: Path, delimiter: str, encoding: str) -> None:
    if absent := [name for name in columns if name not in names]:
        hint = ""
        if _UNREADABLE.search("".join(names)):
            hint = f"; it holds bytes that are not {encoding}: give its encoding, e.g. --encoding cp949 or latin-1"
        if "\0" in "".join(names):
            hint = "; it holds NUL bytes: is it UTF-16 without its mark? Give --encoding utf-16-le"
        for other, plural in DELIMITERS.items():
            if other != delimiter and any(name in columns for joined in names for name in joined.split(other)[1:]):
                hint = f"; its cells are separated by {plural}, not by {DELIMITERS.get(delimiter, repr(delimiter))}"
        wanted, found = ", ".join(map(repr, absent)), ", ".join(map(repr, names))
        raise DataError(f"{path}: has no column {wanted}; its columns are {found}{hint}")
    if twice := [name for name in columns if names.count(name) > 1]:
        raise DataError(f"{path}: has {names.count(twice[0])} columns called {twice[0]!r}; rename all but one")


def _row(where: str, cells: list[str], names: list[str], columns: Sequence[str], encoding: str) -> Row | BadSample:
    if len(cells) != len(names):
        return BadSample(where, f"has {len(cells)} cells instead of {len(names)}")
    row: dict[str, str] = {}
    for name, cell in zip(names, cells, strict=True):
        cell = cell.strip()
        if name in columns and (reason := _damage(cell, encoding)):
            return BadSample(where, f"{name!r} {reason}")
        row.setdefault(name, cell if cell.isascii() else _UNREADABLE.sub("\ufffd", cell))
    return Row(where, row)


def _damage(cell: str, encoding: str) -> str:
    """What is wrong with a cell that is needed, or nothing."""
    if not cell.isascii() and (_UNREADABLE.search(cell) or (encoding == "utf-16" and "\ufffd" in cell)):
        held = cell[:40].encode(errors="surrogateescape")
        return f"holds bytes that are not {encoding} ({held!r}); give its encoding, e.g. --encoding cp949 or latin-1"
    if "\0" in cell:
        return "holds NUL bytes: the file is damaged, or is UTF-16 without its mark (--encoding utf-16-le)"
    if _SPREADSHEET_ERROR.fullmatch(cell):
        return f"is {cell}, which a spreadsheet put there; take the original table"
    if _SPREADSHEET_NUMBER.fullmatch(cell):
        return f"is {cell}, which a spreadsheet made of a long number or an id; take the original table"
    return ""


def _open(path: Path, encoding: str) -> TextIO:
    with path.open("rb") as file:
        head = file.read(3)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return path.open(encoding="utf-16", errors="replace", newline="")  # its half letters cannot be escaped
    encoding = "utf-8-sig" if head == b"\xef\xbb\xbf" else encoding
    return path.open(encoding=encoding, errors="surrogateescape", newline="")
