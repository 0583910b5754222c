"""Clips -> tar shards. The same clips give the same bytes, in whatever order they come and however many workers write.

Several shards are written in forked processes, which compute with numpy, soxr and libsndfile only.
"""

import contextlib
import fcntl
import functools
import itertools
import json
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import webdataset
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from atr.errors import DataError
from atr.shards.encode import FORMATS, Codec, encode_clip, refused_rate
from atr.shards.forks import run_forked
from atr.shards.index import build_index, index_path, write_index
from atr.types import BadSample, Clip

KEY_LENGTH = 95  # a tar header holds names of 100 bytes
LOCK = ".writing"  # in the folder while it is written
REFRESH_EVERY = 0.1  # s
_TEMPORARY = re.compile(r"\.+\d{5,}\.(part|index\.json.*)")


@dataclass
class Written:
    """What became of the clips.

    Attributes:
        shards: the tars.
        clips: how many they hold.
        rejected: the clips that could not be stored, with the reason, in the shards' order.
        clipped: samples (of all channels) beyond [-1, 1] that 16 bits cannot hold and that were clipped.
    """

    shards: list[Path] = field(default_factory=list)
    clips: int = 0
    rejected: list[BadSample] = field(default_factory=list)
    clipped: int = 0


def write_shards(
    clips: Iterable[Clip],
    folder: Path,
    codec: Codec = "keep",
    sample_rate: int | None = None,
    clips_per_shard: int = 512,
    workers: int | None = None,
    progress: bool = True,
) -> Written:
    """Writes `folder/00000.tar`, … with their indexes. Whole shards stay when it is stopped, nothing else.

    Args:
        clips: any order; they are sorted by id and cut into groups before any is read. A rejected clip makes its
            shard smaller and moves no other; a shard of which nothing is left is not written.
        folder: made if it is not there; must not hold shards yet.
        codec: `keep` copies the files byte for byte (and then `sample_rate` must be None).
        sample_rate: Hz to convert to; None leaves it.
        clips_per_shard: samples in a tar; the last one may hold fewer.
        workers: processes; None for one per processor. One worker, or one shard, is written in this process.
        progress: shows a bar on a terminal (stderr).

    Raises:
        DataError: the folder holds shards or is being written, two clips share an id, or a clip ended a worker.
        OSError: the shards cannot be stored; the disk is full.
        ValueError: a setting makes no sense.
    """
    _check_settings(codec, sample_rate, clips_per_shard, workers)
    ordered = _sorted(clips)
    groups = [ordered[start : start + clips_per_shard] for start in range(0, len(ordered), clips_per_shard)]
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(workers or processors, len(groups))
    folder.mkdir(parents=True, exist_ok=True)
    with _claimed(folder), clip_bar(len(ordered), progress) as on_clip:
        tasks = [
            functools.partial(write_shard, group, folder / f"{number:05d}.tar", codec, sample_rate)
            for number, group in enumerate(groups)
        ]
        if processes > 1:
            parts = run_forked(tasks, processes, on_clip, functools.partial(_where, folder, groups))
        else:
            parts = [task(on_clip) for task in tasks]
    return Written(
        [tar for part in parts for tar in part.shards],
        sum(part.clips for part in parts),
        [one for part in parts for one in part.rejected],
        sum(part.clipped for part in parts),
    )


def write_shard(
    clips: Iterable[Clip],
    tar: Path,
    codec: Codec = "keep",
    sample_rate: int | None = None,
    on_clip: Callable[[], object] = lambda: None,
) -> Written:
    """Writes one tar and its index, clip by clip, under names no reader looks at; then moves them into place.

    The index goes first: without its tar nobody looks at it, while a tar without index would be read by everyone who
    finds it. Nothing is left under a final name when not a single clip could be stored.

    Args:
        clips: in the order of the tar; of different keys.
        tar: where to; its folder must be there.
        codec: see `write_shards`.
        sample_rate: Hz, or None.
        on_clip: is called after each clip.

    Raises:
        DataError: the tar is there already.
        OSError: it cannot be stored.
    """
    if tar.exists():
        raise DataError(f"{tar} is there already; remove it or choose another name")
    part, written = tar.with_name(f".{tar.stem}.part"), Written()
    try:
        with part.open("wb") as stream:
            # Owner and mode are webdataset's own, said here so that its version does not matter.
            owner = {"user": "bigdata", "group": "bigdata", "mode": 0o444}
            with webdataset.TarWriter(stream, encoder=False, mtime=0, **owner) as writer:
                for clip in clips:
                    try:
                        with _ctrl_c_waits():
                            sample, clipped = _sample(clip, codec, sample_rate)
                    except DataError as error:
                        written.rejected.append(BadSample(clip.id, str(error)))
                    else:  # what fails here is not the clip's fault
                        writer.write(sample)
                        written.clips += 1
                        written.clipped += clipped
                    on_clip()
            stream.flush()
            os.fsync(stream.fileno())
        if written.clips:
            with _ctrl_c_waits():
                write_index(build_index(part))
            index_path(part).replace(index_path(tar))
            part.replace(tar)
            written.shards.append(tar)
    finally:
        part.unlink(missing_ok=True)
        index_path(part).unlink(missing_ok=True)
    return written


def _where(folder: Path, groups: list[list[Clip]], number: int, done: int) -> str:
    """A shard and its clip after the first `done`, for messages."""
    clip = groups[number][min(done, len(groups[number]) - 1)]
    return f"{folder / f'{number:05d}.tar'}: clip {clip.id!r} ({clip.audio})"


def shard_key(clip_id: str) -> str:
    """A name that every tar reader takes: letters of any script, digits, - and _; dots would end a WebDataset key."""
    return re.sub(r"[^\w-]", "_", clip_id)


def _check_settings(codec: Codec, sample_rate: int | None, clips_per_shard: int, workers: int | None) -> None:
    allowed = ", ".join(FORMATS)
    if codec != "keep" and codec not in FORMATS:
        raise ValueError(f"codec {codec!r}; allowed are keep, {allowed}")
    if codec == "keep" and sample_rate is not None:
        raise ValueError(f"codec 'keep' copies files as they are; choose one of {allowed} to change the sample rate")
    for name, value in (("sample_rate", sample_rate), ("clips_per_shard", clips_per_shard), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    if sample_rate is not None and (refusal := refused_rate(codec, sample_rate)):
        raise ValueError(refusal)


def _sorted(clips: Iterable[Clip]) -> list[Clip]:
    """The clips by key, which must differ."""
    ordered = sorted(clips, key=lambda clip: (shard_key(clip.id), clip.id))
    for before, after in itertools.pairwise(ordered):
        if shard_key(before.id) == shard_key(after.id):
            raise DataError(
                f"the ids {before.id!r} and {after.id!r} ({before.audio}, {after.audio}) give the same key "
                f"{shard_key(after.id)!r}; ids must differ in letters, digits, - or _"
            )
    return ordered


def _sample(clip: Clip, codec: Codec, sample_rate: int | None) -> tuple[dict[str, str | bytes], int]:
    """What a tar holds of a clip, and the number of samples clipped; DataError when the clip is at fault."""
    key = shard_key(clip.id)
    if not 0 < len(key) <= KEY_LENGTH:
        raise DataError(f"its id has {len(key)} characters; a tar takes 1 to {KEY_LENGTH}; choose another id")
    try:
        meta = json.dumps(clip.metadata(), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"its text is no Unicode ({error}); read it again with the right encoding") from error
    sound = encode_clip(clip, codec, sample_rate)
    return {"__key__": key, sound.suffix: sound.content, "json": meta}, sound.clipped


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C is heard at the end: raised while libsndfile calls back into Python, cffi would swallow it."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if heard:
            handler(*heard[0])


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Locks a folder that holds no shards, and removes what dead writers left, before and after.

    The children inherit the lock: as long as one of a killed writer's is busy, the folder is. The kernel frees it.
    """
    path = folder / LOCK
    with path.open("wb") as lock:
        busy = DataError(f"another process is writing shards into {folder}; wait for it or choose another folder")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError as error:
            warnings.warn(f"{folder} cannot be locked ({error}): let no other process write into it", stacklevel=4)
        if os.fstat(lock.fileno()).st_nlink == 0:  # its holder has just removed it
            raise busy
        try:
            _remove_temporaries(folder)
            if any(folder.glob("*.tar")):
                raise DataError(f"{folder} already holds shards; remove them or choose another folder")
            yield
        finally:
            _remove_temporaries(folder)
            path.unlink(missing_ok=True)


def _remove_temporaries(folder: Path) -> None:
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def clip_bar(total: int, show: bool) -> Iterator[Callable[[], None]]:
    """Yields what is to be called after each clip. No thread draws the bar: a process with threads should not fork."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("clips"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=console, auto_refresh=False, disable=not (show and console.is_terminal),
    )  # fmt: skip
    task = bar.add_task("write", total=total, speed="")
    began = drawn = time.monotonic()
    done = 0

    def on_clip() -> None:
        nonlocal drawn, done
        now, done = time.monotonic(), done + 1
        if now - drawn >= REFRESH_EVERY or done == total:
            drawn = now
            bar.update(task, completed=done, speed=f"{done / (now - began):.0f} clips/s", refresh=True)

    with bar:
        yield on_clip
