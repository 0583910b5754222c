"""Files that retrieval is measured from: embeddings of any model, and tables of relevant pairs."""

import ast
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atr.datasets.tables import Row, read_header, read_table
from atr.errors import DataError
from atr.evaluation.retrieval import Pair, check_embeddings, check_ids
from atr.types import BadSample

ARRAYS = "audio (N, D) and text (M, D) of floats, clip_of_text (M,) of whole numbers; ids (N,) of text may be there"
UNIT = 1e-3  # a norm may be off by this: float16 rounds it by 1e-4 at most
OURS, DCASE = ("caption", "clip"), ("query", "audio_filenames")


def read_embeddings(path: Path) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Reads an `.npz`: `audio (N, D)`, `text (M, D)`, `clip_of_text (M,)`, and, if there, `ids (N,)`.

    Other arrays in it are left alone, and no pickled object is ever opened.

    Returns:
        audio, text: float32, as they are in the file, all of norm 1. clip_of_text: int64. ids: the row numbers where
        there are none.

    Raises:
        DataError: it is not there, damaged, lacks an array, or holds what cannot be measured: shapes that do not fit,
            no clip or caption, a clip that is not there, NaN, a norm that is not 1, or one id twice.
    """
    if not path.is_file():
        raise DataError(f"{path} is not there; it should be an .npz with {ARRAYS}")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in ("audio", "text", "clip_of_text", "ids") if name in file.files}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no .npz of plain arrays, or damaged ({type(error).__name__}: {error}); np.savez makes one, "
            f"with {ARRAYS}"
        ) from error
    try:
        audio, text = (_floats(found, name) for name in ("audio", "text"))
        owner = _whole_numbers(found)
        check_embeddings(audio, text, owner)
        for name, rows in (("audio", audio), ("text", text)):
            _check_norms(name, rows)
        ids = (
            [str(one) for one in found["ids"].ravel().tolist()] if "ids" in found else list(map(str, range(len(audio))))
        )
        check_ids(ids, len(audio))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return audio, text, owner, ids


def _array(found: dict[str, np.ndarray], name: str, kinds: str) -> np.ndarray:
    if name not in found:
        raise DataError(f"has no array {name!r} (it has {', '.join(found) or 'none of them'}); it should hold {ARRAYS}")
    if found[name].dtype.kind not in kinds:
        raise DataError(f"{name} is of {found[name].dtype}; it should hold {ARRAYS}")
    return found[name]


def _floats(found: dict[str, np.ndarray], name: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(_array(found, name, "f"), np.float32))


def _whole_numbers(found: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(_array(found, "clip_of_text", "iu").astype(np.int64))


def _check_norms(name: str, rows: Tensor) -> None:
    """Cosines of vectors of other norms are another question, so nothing is normalised unasked."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    if len(off := ((norms - 1).abs() > UNIT).nonzero().flatten()):
        raise DataError(
            f"row {int(off[0])} of {name} has norm {float(norms[off[0]]):.4g} ({len(off)} of {len(rows)} are not 1); "
            f"if cosines are what counts, store {name} / np.linalg.norm({name}, axis=1, keepdims=True)"
        )


def read_relevance(path: Path, captions: Sequence[str], ids: Sequence[str]) -> list[Pair]:
    """Reads a table that says which clips fit which captions, for `retrieval(…, relevant=…)`.

    A csv file with the columns `caption` and `clip` (an id), a row for each pair; or DCASE 2025's form, `query` and
    `audio_filenames`, whose cells are lists: `['rain.wav', 'storm.wav']`. It says all: a caption's own clip does not
    count where its row does not name it, and captions that it leaves out are no queries. A caption that several clips
    have is one query, the first one's.

    Args:
        captions: the M captions, in the order of their embeddings.
        ids: of the N clips; DCASE's table holds names of files.

    Raises:
        DataError: the table cannot be read, is empty, or names a caption or a clip that is not there.
    """
    form = DCASE if "query" in read_header(path, ",", "utf-8") else OURS
    row_of_caption = {caption.strip(): row for row, caption in reversed(list(enumerate(captions)))}
    row_of_clip = {name: row for row, name in enumerate(ids)}
    pairs: list[Pair] = []
    for row in read_table(path, form):
        if isinstance(row, BadSample):
            raise DataError(f"{row.key}: {row.reason}")
        if row[form[0]] not in row_of_caption:
            raise DataError(f"{row.where}: no clip of the set has the caption {row[form[0]]!r}")
        for name in _clips(row, form):
            if name not in row_of_clip:
                raise DataError(f"{row.where}: the set has no clip {name!r}; its ids are like {ids[0]!r}")
            pairs.append((row_of_caption[row[form[0]]], row_of_clip[name]))
    if not pairs:
        raise DataError(f"{path}: names no pair; it needs a row for each, with {OURS[0]} and {OURS[1]}")
    return pairs


def _clips(row: Row, form: tuple[str, str]) -> Iterator[str]:
    if form == OURS:
        yield row["clip"]
        return
    try:
        names = ast.literal_eval(row["audio_filenames"])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        raise DataError(
            f"{row.where}: audio_filenames is {row['audio_filenames'][:80]!r}; allowed: a list, ['a.wav', …]"
        )
    yield from names
