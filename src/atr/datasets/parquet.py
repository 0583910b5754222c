"""A parquet table of the user's own, read batch by batch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atr.datasets.corpus import Card, Raw
from atr.datasets.own import ALL, Columns, Record, find_table, read_rows, splits_of
from atr.errors import DataError, UsageError
from atr.types import BadSample, Clip

CARD = Card(
    name="parquet table",
    homepage="a file of your own",
    licence="yours; a column `licence` tells that of each clip",
    splits=(ALL,),
    captions="as many as the cell of captions holds, or as there are columns or rows for a clip",
    citation="",
    faults=(
        "rows of the same id and sound are one clip",
        "sounds stand below the table's folder or --audio-dir",
        "the values of a column `split` are the splits",
    ),
)
ROWS = 1024  # read at a time


def splits(raw: Raw) -> tuple[str, ...]:
    """The values of the column of the splits, or `all`."""
    path = find_table(raw.root, ".parquet")
    columns = Columns(raw.columns, path)
    names = columns.names.get("split", ["split"])
    return splits_of(parquet_rows(path, names), columns)


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """The rows of a split; columns are those of the names of the fields, or those given."""
    path = find_table(raw.root, ".parquet")
    return read_rows(raw, path, parquet_rows(path), split)


def parquet_rows(path: Path, columns: list[str] | None = None) -> Iterator[Record]:
    """The rows of a parquet file, `file:row N` from 1 on, with these columns or all.

    Raises:
        UsageError: pyarrow is not installed.
        DataError: the file is damaged.
    """
    pyarrow = need_pyarrow()
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet after row {number} ({error})") from error


def need_pyarrow() -> Any:
    """The module pyarrow.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise UsageError('parquet and arrow files need pyarrow; pip install "atr[data]"') from error
    return pyarrow
