"""Clips -> tar shards. The same clips give the same bytes, in whatever order they come (for ogg: the same
samples; its encoder draws a stream number)."""

import io
import itertools
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from atr.errors import DataError
from atr.shards.index import AUDIO_SUFFIXES, build_index, write_index
from atr.types import BadSample, Clip

Codec = Literal["keep", "flac", "ogg", "wav"]
_FORMATS = {"flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "wav": ("WAV", "PCM_16")}
VORBIS_COMPRESSION = 0.9  # libsndfile's scale, 1 = smallest; about 50 kbit/s for 32 kHz mono


@dataclass
class Written:
    """What became of the clips: the tars, how many clips they hold, and which clips were refused."""

    shards: list[Path] = field(default_factory=list)
    clips: int = 0
    rejected: list[BadSample] = field(default_factory=list)


def write_shards(
    clips: Iterable[Clip],
    folder: Path,
    codec: Codec = "keep",
    sample_rate: int | None = None,
    clips_per_shard: int = 512,
) -> Written:
    """Writes `folder/00000.tar`, … with their indexes.

    Args:
        clips: any order; they are stored by id.
        folder: made if it is not there; must not hold shards yet.
        codec: `keep` copies the files byte for byte (and then `sample_rate` must be None).
        sample_rate: Hz to convert to; None leaves it.
        clips_per_shard: samples in a tar; the last one may hold fewer.

    Raises:
        DataError: the folder already holds shards, or two clips share an id.
        ValueError: `keep` together with a sample rate.
    """
    if codec == "keep" and sample_rate is not None:
        raise ValueError("codec 'keep' copies files as they are; choose flac, ogg or wav to change the sample rate")
    if list(folder.glob("*.tar")):
        raise DataError(f"{folder} already holds shards; remove them or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(clips, key=lambda clip: (shard_key(clip.id), clip.id))
    for before, after in itertools.pairwise(ordered):
        if shard_key(before.id) == shard_key(after.id):
            raise DataError(
                f"the ids {before.id!r} and {after.id!r} ({before.audio}, {after.audio}) give the same key "
                f"{shard_key(after.id)!r}; ids must differ in letters, digits, - or _"
            )
    result = Written()
    members: list[tuple[Clip, str, bytes]] = []
    for clip in ordered:
        try:
            members.append((clip, *_encode(clip, codec, sample_rate)))
        except (OSError, RuntimeError, DataError) as error:
            result.rejected.append(BadSample(clip.id, str(error)))
            continue
        if len(members) == clips_per_shard:
            _write_tar(members, folder, result)
            members = []
    if members:
        _write_tar(members, folder, result)
    return result


def shard_key(clip_id: str) -> str:
    """A name that every tar reader takes: no dots (they end a WebDataset key), no slashes, no blanks."""
    return re.sub(r"[^0-9A-Za-z_-]", "_", clip_id)


def _encode(clip: Clip, codec: Codec, sample_rate: int | None) -> tuple[str, bytes]:
    """Returns the suffix and the bytes under which a clip's sound is stored."""
    path = Path(clip.audio)
    cut = clip.start is not None or clip.end is not None
    if codec == "keep":
        if cut:
            raise DataError(f"{path}: codec keep cannot cut out {clip.start} to {clip.end} s; choose flac, ogg or wav")
        suffix = path.suffix.lower().lstrip(".")
        if suffix not in AUDIO_SUFFIXES:
            raise DataError(f"{path}: suffix .{suffix} cannot be kept; allowed are {', '.join(AUDIO_SUFFIXES)}")
        if soundfile.info(str(path)).frames == 0:
            raise DataError(f"{path}: no samples in it")
        return suffix, path.read_bytes()
    rate = soundfile.info(str(path)).samplerate
    start, stop = (None if second is None else round(second * rate) for second in (clip.start, clip.end))
    samples, _ = soundfile.read(
        path, start=start or 0, stop=stop, dtype="float32", always_2d=True
    )  # (frames, channels)
    if len(samples) == 0:
        raise DataError(f"{path}: no samples {'between its start and end' if cut else 'in it'}")
    if not np.isfinite(samples).all():
        raise DataError(f"{path}: holds NaN or infinite samples")
    if sample_rate is not None and sample_rate != rate:
        samples, rate = soxr.resample(samples, rate, sample_rate), sample_rate
    kind, subtype = _FORMATS[codec]
    stream = io.BytesIO()
    level = VORBIS_COMPRESSION if codec == "ogg" else None
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype, compression_level=level)
    return codec, stream.getvalue()


def _write_tar(members: list[tuple[Clip, str, bytes]], folder: Path, result: Written) -> None:
    """Writes one tar and its index: first under a name no reader looks at, then moved into place."""
    import webdataset

    tar = folder / f"{len(result.shards):05d}.tar"
    temporary = tar.with_name(f".{tar.name}.{os.getpid()}")
    with temporary.open("wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as writer:
        for clip, suffix, audio in members:
            meta = json.dumps(clip.metadata(), ensure_ascii=False).encode()
            writer.write({"__key__": shard_key(clip.id), suffix: audio, "json": meta})
        stream.flush()
    temporary.replace(tar)
    write_index(build_index(tar))
    result.shards.append(tar)
    result.clips += len(members)
