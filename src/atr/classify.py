"""Sounds of folders, files and shards -> their nearest labels."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from atr.collection import find_sounds, whole_file
from atr.errors import UsageError
from atr.inference import AudioTextModel, rank_labels
from atr.shards.progress import clip_bar
from atr.types import BadSample
from atr.windows import join

Ranked = dict[str, list[tuple[str, float]]]  # id -> labels with their cosine, best first


def classify_places(
    model: AudioTextModel,
    places: Sequence[str | Path],
    labels: Sequence[str],
    template: str,
    windows: str = "mean",
    progress: bool = True,
) -> tuple[Ranked, list[BadSample], dict[str, list[str]]]:
    """Classifies each sound of the places.

    Args:
        labels: candidates; the training data's when empty.
        template: prompt with `{label}`.
        windows: as of `encode_audio`.
        progress: shows a bar on a terminal (stderr).

    Returns:
        The labels by sound, what cannot be used, and remarks with the sounds that they are about.

    Raises:
        DataError: a place is not there or holds no sounds.
        UsageError: no labels, or a template without `{label}`.
    """
    items, bad, left_out = find_sounds(places, whole=True)
    names, text = model.encode_labels(labels, template)
    ranked: Ranked = {}
    remarks: dict[str, list[str]] = {"is left out by a quarantine": left_out} if left_out else {}
    with clip_bar(len(items), progress and len(items) > 1) as on_clip:
        for heard in model.encode_sources(items, windows):
            on_clip()
            if isinstance(heard, BadSample):
                bad.append(heard)
                continue
            for remark in heard.remarks:
                remarks.setdefault(remark, []).append(heard.name)
            vector = join(torch.stack(heard.vectors), heard.powers, windows)
            ranked[heard.name] = rank_labels(names, model.similarity(vector[None], text))[0]
    return ranked, bad, remarks


def write_csv(path: Path, ranked: Ranked, top: int) -> None:
    """Writes `path, label_1, cosine_1, …` in UTF-8, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    count = min([top, *map(len, ranked.values())])
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", *(f"{name}_{rank}" for rank in range(1, count + 1) for name in ("label", "cosine"))])
        for name, answer in ranked.items():
            cells = [cell for label, cosine in answer[:count] for cell in (label, f"{cosine:.6f}")]
            rows.writerow([name, *cells])


def read_labels(path: Path) -> list[str]:
    """The labels of a text file, one in each line.

    Raises:
        UsageError: it cannot be read, is not UTF-8, or holds none.
    """
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--labels-file {path}: cannot be read as UTF-8 text ({error})") from error
    if not labels:
        raise UsageError(f"--labels-file {path}: is empty; write a label into each line")
    return labels
