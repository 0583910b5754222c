"""Reads the records of a large json file one at a time, none of them held."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from atr.errors import DataError
from atr.types import BadSample

CHUNK = 1 << 20  # bytes
LONGEST_RECORD = 1 << 24  # characters


def read_records(path: Path, key: str = "data") -> Iterator[tuple[str, dict[str, Any]] | BadSample]:
    """The objects of a list, which is the file itself or stands under `key` of the file's object.

    Each comes with where it stands, `file: byte N`. An element that is no object, or with text that is no Unicode, is
    a BadSample of that name.

    Raises:
        DataError: the file cannot be read, holds no such list, or is no JSON from some byte on.
    """
    try:
        with path.open("rb") as file:
            text = _Text(file, path)
            if text.next("[{", "a list or an object") == "{":
                _find_list(text, key)
            yield from _elements(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


class _Text:
    """The text of a file from a moving position on, of which only a part is in memory."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.buffer, self.position = "", 0
        self.passed = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0  # bytes before the buffer
        file.seek(self.passed)
        self.ended = False
        self.fill()

    def fill(self) -> None:
        """Reads on, and forgets what is passed. The buffer doubles, so that a long record costs linear time."""
        self.passed += _size(self.buffer[: self.position])
        self.buffer, self.position = self.buffer[self.position :], 0
        content = self.file.read(max(CHUNK, len(self.buffer)))
        self.ended = not content
        self.buffer += self.decode.decode(content, final=self.ended)

    def where(self, position: int) -> str:
        return f"{self.path}: byte {self.passed + _size(self.buffer[:position])}"

    def next(self, allowed: str, what: str) -> str:
        """The next character that is no blank, which must be one of these; it is passed."""
        letter = self.peek()
        if not letter or letter not in allowed:
            found = repr(letter) if letter else "the end of the file"
            raise DataError(f"{self.where(self.position)}: {what} should stand here, but {found} does")
        self.position += 1
        return letter

    def peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            while self.position < len(self.buffer):
                if (letter := self.buffer[self.position]) not in " \t\r\n":
                    return letter
                self.position += 1
            if self.ended:
                return ""
            self.fill()

    def value(self) -> tuple[Any, str, str]:
        """The value that stands here, its text, and where it is; it is passed."""
        self.peek()
        while True:
            error: Exception | None = None
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.position)
            except (ValueError, RecursionError) as raised:
                error = raised
            if error is None and (end + 2 < len(self.buffer) or self.ended):  # `1` may go on as `1e+5`
                text, where = self.buffer[self.position : end], self.where(self.position)
                self.position = end
                return value, text, where
            if error and (self.ended or len(self.buffer) - self.position > LONGEST_RECORD):
                place = self.where(getattr(error, "pos", self.position))
                reason = getattr(error, "msg", error)
                raise DataError(f"{place}: is no JSON ({reason}); repair the file or fetch it again") from error
            self.fill()


_DECODER = json.JSONDecoder()


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogateescape"))


def _find_list(text: _Text, key: str) -> None:
    """Goes on to the first element of the list under a key."""
    names: list[str] = []
    while text.peek() != "}":
        if names:
            text.next(",", "a comma")
        name = text.value()[0]
        text.next(":", "a colon")
        if name == key:
            text.next("[", f"the list of {key!r}")
            return
        names.append(str(name))
        text.value()
    raise DataError(f"{text.path}: has no list {key!r}; its keys are {', '.join(map(repr, names)) or 'none'}")


def _elements(text: _Text) -> Iterator[tuple[str, dict[str, Any]] | BadSample]:
    if text.peek() == "]":
        return
    while True:
        value, source, where = text.value()
        if not isinstance(value, dict):
            yield BadSample(where, f"is a {type(value).__name__}, not an object with the fields of a clip")
        elif not _is_unicode(value, source):
            yield BadSample(where, "holds text that is no Unicode; the file should be UTF-8")
        else:
            yield where, value
        if text.next(",]", "a comma or the end of the list") == "]":
            return


def _is_unicode(value: dict[str, Any], source: str) -> bool:
    try:
        source.encode()
        if "\\ud" in source or "\\uD" in source:  # halves of a pair, written as escapes
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
