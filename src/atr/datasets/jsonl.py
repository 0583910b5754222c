"""A table of the user's own as JSON: an object a line."""

import json
from collections.abc import Iterator
from pathlib import Path

from atr.datasets.corpus import Card, Raw
from atr.datasets.own import ALL, Columns, Record, find_table, read_rows, splits_of
from atr.errors import DataError
from atr.types import BadSample, Clip

CARD = Card(
    name="jsonl table",
    homepage="a file of your own",
    licence="yours; a field `licence` tells that of each clip",
    splits=(ALL,),
    captions="as many as the list `captions` holds, or as there are rows for a clip",
    citation="",
    faults=(
        "rows of the same id and sound are one clip",
        "sounds stand below the table's folder or --audio-dir",
        "the values of a field `split` are the splits",
    ),
)
SUFFIXES = (".jsonl", ".ndjson")


def splits(raw: Raw) -> tuple[str, ...]:
    """The values of the field of the splits, or `all`."""
    return splits_of(json_lines(find_table(raw.root, *SUFFIXES)), Columns(raw.columns, raw.root))


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """The rows of a split; the fields are those of `Clip`, or those given."""
    path = find_table(raw.root, *SUFFIXES)
    return read_rows(raw, path, json_lines(path), split)


def json_lines(path: Path) -> Iterator[Record | BadSample]:
    """The objects of a file that holds one a line, a comma after it or not.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(b"\xef\xbb\xbf").strip().removesuffix(b",")
                if line:
                    yield _record(line, f"{path}:{number}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _record(line: bytes, where: str) -> Record | BadSample:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadSample(where, f"is no JSON ({error})")
    if not isinstance(row, dict):
        return BadSample(where, f"is a {type(row).__name__}, not an object")
    return where, row
