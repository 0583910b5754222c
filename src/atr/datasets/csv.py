"""A csv table of the user's own, also with semicolons or tabs between the cells."""

from collections.abc import Iterator

from atr.datasets.corpus import Card, Raw
from atr.datasets.own import ALL, FIELDS, Columns, Record, find_table, read_rows, splits_of
from atr.datasets.tables import find_delimiter, read_header, read_table
from atr.types import BadSample, Clip

CARD = Card(
    name="csv table",
    homepage="a file of your own",
    licence="yours; a column `licence` tells that of each clip",
    splits=(ALL,),
    captions="as many as there are columns or rows for a clip",
    citation="",
    faults=(
        "rows of the same id and sound are one clip",
        "sounds stand below the table's folder or --audio-dir",
        "the values of a column `split` are the splits",
    ),
)


def splits(raw: Raw) -> tuple[str, ...]:
    """The values of the column of the splits, or `all`."""
    return splits_of(_rows(raw), Columns(raw.columns, raw.root))


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """The rows of a split; columns are those of the names of the fields, or those given."""
    return read_rows(raw, find_table(raw.root, ".csv", ".tsv"), _rows(raw), split)


def _rows(raw: Raw) -> Iterator[Record | BadSample]:
    path = find_table(raw.root, ".csv", ".tsv")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else find_delimiter(path, raw.encoding)
    columns = Columns(raw.columns, path)
    there = read_header(path, delimiter, raw.encoding)
    needed = {name for name in (*FIELDS, *(f"{one}s" for one in FIELDS)) if name in there}
    if "audio" not in columns.names:
        needed.add("audio")
    for row in read_table(path, sorted(needed | columns.missing), delimiter=delimiter, encoding=raw.encoding):
        yield row if isinstance(row, BadSample) else (row.where, row.cells)
