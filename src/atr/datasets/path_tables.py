"""Corpora whose table is a csv of path and label, or whose labels stand in the names of the files.

AudioSetCaps publishes such tables for its zero-shot sets.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from atr.datasets.corpus import MissingSplit, Raw
from atr.datasets.tables import read_table
from atr.shards.scan import AUDIO_SUFFIXES
from atr.types import BadSample, Clip


def read_path_table(
    raw: Raw, table: Path, columns: tuple[str, str], like: Clip, site: str
) -> Iterator[Clip | BadSample]:
    """A clip per row. Of the path, which may be somebody's own, only the last two folders and the name count.

    Args:
        raw: the publisher's files.
        table: the csv.
        columns: of the path, and of the label.
        like: has what all clips share.
        site: before the colon in `source`; behind it stands the file's name.
    """
    for row in read_table(table, columns):
        if isinstance(row, BadSample):
            yield row
            continue
        parts = [part for part in row[columns[0]].replace("\\", "/").split("/") if part not in ("", ".", "..")]
        if not parts or not row[columns[1]]:
            yield BadSample(row.where, f"has no {columns[1] if parts else columns[0]}")
        else:
            yield raw.audio.named(_clip(like, parts[-1], row[columns[1]], site), "/".join(parts[-3:]))


def read_file_names(
    raw: Raw, label: Callable[[str], str | None], example: str, like: Clip, site: str
) -> Iterator[Clip | BadSample]:
    """A clip per sound file; `label` gives that of a stem, or None where the name is none of the corpus's.

    Raises:
        MissingSplit: there are no sounds.
    """
    paths = raw.audio.paths()
    if not paths:
        raise MissingSplit(f"no sound files below {raw.audio.folder}: the labels stand in their names, e.g. {example}")
    for path in paths:
        found = label(path.stem)
        if found is None:
            yield BadSample(path.stem, f"{path} is no name such as {example}")
        else:
            yield replace(_clip(like, path.name, found, site), audio=str(path))


def _clip(like: Clip, name: str, label: str, site: str) -> Clip:
    path = PurePosixPath(name)
    stem = path.stem if path.suffix[1:].lower() in AUDIO_SUFFIXES else name
    return replace(like, id=stem, labels=[label], source=f"{site}:{stem}")
