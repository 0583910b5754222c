"""Folders, files and shards -> one file of embeddings. Stopped or killed, the same command goes on."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from atr.collection import (
    FORMAT,
    Collection,
    Item,
    check_out,
    digest,
    find_sounds,
    join_collections,
    read_collection,
    write_collection,
)
from atr.errors import DataError, UsageError
from atr.inference import AudioTextModel, load, some
from atr.models.compute import fast_cpu
from atr.shards.progress import clip_bar
from atr.types import BadSample
from atr.windows import check_windows, join

# Clips and bytes of a group, which is encoded by itself and stored whole: what a kill costs. Groups depend on nothing
# but the list of sounds, so a run that goes on encodes the same batches, and its file has the same bits.
GROUP_CLIPS = 128
GROUP_BYTES = 64 << 20
EACH = "each"  # a vector for each window


def embed(
    checkpoint: str | Path, places: Sequence[str | Path], out: Path, windows: str = "mean", progress: bool = True
) -> tuple[Collection, list[str]]:
    """Embeds sounds into a `.npz` or `.parquet`; what is done so far stands in `OUT.part` until all is.

    Args:
        checkpoint: what `atr.load` takes.
        places: folders of sounds, sound files, shard folders, tars.
        out: where a finished one of the same model, settings and sounds is, nothing is done.
        windows: as of `encode_audio`, or `each`: a vector for each window, with its times.
        progress: shows a bar on a terminal (stderr).

    Returns:
        What the file holds, and what a quarantine left out.

    Raises:
        DataError: a place is not there, no sound can be embedded, or the file cannot be written.
        UsageError: `out` or its part was made with another model, other settings or other sounds.
    """
    check_out(out)
    items, lost, left_out = find_sounds(places)
    model = load(checkpoint)
    check_windows(windows, model.fuses, also=[EACH])
    path = Path(checkpoint)
    about = {
        "format": FORMAT, "checkpoint": str(path.absolute() if path.exists() else checkpoint),
        "weights": model.fingerprint(), "windows": windows, "seconds": model.seconds,
        "sample_rate": model.sample_rate, "sounds": digest(items),
    }  # fmt: skip
    part = out.with_name(f"{out.name}.part")
    if out.exists():
        done = read_collection(out)
        check_same(done.about, about, out)
        shutil.rmtree(part, ignore_errors=True)  # killed before this line
        return done, left_out
    with claimed(part, about):
        with fast_cpu(), clip_bar(len(items), progress) as on_clip:
            parts = [
                _group(model, group, windows, part / f"{number:06d}.npz", on_clip)
                for number, group in enumerate(groups(items))
            ]
        whole = join_collections(parts, about, lost)
        if not len(whole.ids):
            raise DataError(f"none of {len(items)} sounds can be embedded; the first is {named(whole.bad[0])}")
        write_collection(whole, out)
        shutil.rmtree(part)
    return whole, left_out


def groups(items: Sequence[Item]) -> Iterator[list[Item]]:
    """The sounds in order, cut where there are `GROUP_CLIPS` or `GROUP_BYTES`."""
    group: list[Item] = []
    size = 0
    for item in items:
        if group and (len(group) == GROUP_CLIPS or size + item.size > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(item)
        size += item.size
    if group:
        yield group


def _group(
    model: AudioTextModel, group: Sequence[Item], windows: str, path: Path, on_clip: Callable[[], None]
) -> Collection:
    """A group as a file of its own, which is read where it is there already."""
    if path.is_file():
        for _ in group:
            on_clip()
        return read_collection(path)
    rows: list[tuple[str, float, float, float]] = []
    vectors: list[torch.Tensor] = []
    bad: list[BadSample] = []
    remarks: list[tuple[str, str]] = []
    for heard in model.encode_sources(group, windows):
        on_clip()
        if isinstance(heard, BadSample):
            bad.append(heard)
            continue
        remarks += [(heard.name, remark) for remark in heard.remarks]
        if windows == EACH:
            rows += [(heard.name, start, end, heard.duration) for start, end in heard.stretches]
            vectors += heard.vectors
        else:
            end = heard.stretches[-1][1]  # the first window's where no other is heard
            rows.append((heard.name, 0.0, end, heard.duration))
            vectors.append(join(torch.stack(heard.vectors), heard.powers, windows))
    found = torch.stack(vectors).numpy() if vectors else np.zeros((0, model.clap.dim), np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"the model gives NaN or infinite embeddings, e.g. among {group[0].name} and those after it")
    ids, *numbers = zip(*rows, strict=True) if rows else ((), (), (), ())
    starts, ends, durations = (np.array(column, np.float64) for column in numbers)
    part = Collection(np.array(ids, np.str_), starts, ends, durations, found, bad, remarks)
    write_collection(part, path)
    return part


@contextlib.contextmanager
def claimed(part: Path, about: dict[str, Any]) -> Iterator[None]:
    """The folder of what is done so far, for one process, if it was made in the same way.

    Raises:
        DataError: another process is writing there.
        UsageError: it was made with another model, other settings or other sounds.
    """
    settings = part / "settings.json"
    try:
        part.mkdir(exist_ok=True)
        with FileLock(part / "lock", timeout=0):
            if settings.is_file():
                check_same(json.loads(settings.read_text()), about, part)
            else:
                written = part / "settings.new"
                written.write_text(json.dumps(about, indent=2))
                written.replace(settings)
            yield
    except Timeout:
        raise DataError(f"another process is writing {part}; wait for it or choose another --out") from None
    except OSError as error:
        raise DataError(f"{part}: cannot be written ({error.strerror or error}); what is done stays there") from error


def check_same(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Refuses to go on with what was made in another way.

    Raises:
        UsageError: naming the first difference.
    """
    for name, value in now.items():
        if name != "checkpoint" and before.get(name) != value:
            found = "other sounds" if name == "sounds" else f"{name} {before.get(name)!r} instead of {value!r}"
            raise UsageError(f"{path} was made with {found}; remove it or choose another --out")


def summary(collection: Collection, left_out: Sequence[str], out: Path) -> list[str]:
    """What was done, line by line: first what is there, then remarks."""
    first = collection.firsts()
    seconds = float(collection.durations[first].sum())
    lines = [
        f"{len(first)} clips, {seconds / 60:.1f} min, {len(collection.ids)} vectors of "
        f"{collection.vectors.shape[1]} numbers: {out}"
    ]
    if left_out:
        lines.append(f"{len(left_out)} left out by a quarantine, the first {left_out[0]}")
    remarks: dict[str, list[str]] = {}
    for name, remark in collection.remarks:
        remarks.setdefault(remark, []).append(name)
    return lines + [f"{some(names)}: {remark}" for remark, names in remarks.items()]


def named(one: BadSample) -> str:
    """A bad sample as a line."""
    return f"{one.key}{'' if one.reason[:1] == ':' else ' '}{one.reason}"
