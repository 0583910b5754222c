"""A clip's sound as a shard stores it: copied as it is, or decoded in blocks, cut, resampled and encoded again."""

import io
import itertools
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile
import soxr

from atr.errors import DataError
from atr.pipeline.decode import UNKNOWN, WARM_UP, WARMING_UP, cut_off, open_sound
from atr.pipeline.decode import Sound as Opened
from atr.shards.index import AUDIO_SUFFIXES
from atr.types import Clip

Codec = Literal["keep", "flac", "ogg", "opus", "wav"]
FORMATS = {"flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "wav": ("WAV", "PCM_16")}
RATES = {
    "flac": range(1, 655_351),
    "ogg": range(1, 200_001),
    "opus": (8000, 12_000, 16_000, 24_000, 48_000),
}  # Hz; libvorbis dies of others
MAX_CHANNELS = 8  # what flac holds; libvorbis dies of 256
VORBIS_COMPRESSION = 0.9  # libsndfile's scale, 1 = smallest; about 50 kbit/s for 32 kHz mono
BLOCK = 1 << 18  # frames decoded at once: an hour is never in memory as float32
_KNOWN_TO_LIBSNDFILE = {"opus", *(name.lower() for name in soundfile.available_formats())}
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Sound:
    """A sound file as a shard stores it.

    Attributes:
        suffix: of its name, without the dot.
        content: the file.
        clipped: samples (of all channels) that had to be clipped to [-1, 1].
        frames: samples per channel; 0 where nobody looked.
        sample_rate: Hz; 0 where nobody looked.
        remark: what is odd about the file that it was made of.
    """

    suffix: str
    content: bytes
    clipped: int = 0
    frames: int = 0
    sample_rate: int = 0
    remark: str = ""


def encode_clip(clip: Clip, codec: Codec, sample_rate: int | None) -> Sound:
    """The sound file that a shard stores for a clip. The same input gives the same bytes with every codec.

    Args:
        clip: `start` and `end` (s) cut it out of its file; an end beyond the file's is the file's.
        codec: `keep` copies the file; the others encode 16 bits (flac, wav) or lossily (ogg, opus).
        sample_rate: Hz to convert to; None leaves it.

    Raises:
        DataError: the clip cannot be read or cannot be stored like this. Nothing else is the clip's fault.
    """
    path = Path(clip.audio)
    try:
        return _copy(path, clip) if codec == "keep" else _encode(path, clip, codec, sample_rate)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except soundfile.LibsndfileError as error:  # its text names a file descriptor, which is another one each time
        raise DataError(f"{path}: cannot be read or encoded ({error.error_string})") from error


def refused_rate(codec: str, rate: int) -> str:
    """Says why a codec cannot store sound of `rate` Hz; empty when it can."""
    rates = RATES.get(codec, (rate,))
    allowed = f"1 to {rates[-1]}" if isinstance(rates, range) else ", ".join(map(str, rates))
    return "" if rate in rates else f"{codec} cannot store {rate} Hz; choose a sample_rate of {allowed} Hz"


def _copy(path: Path, clip: Clip) -> Sound:
    """Takes the file byte for byte, after a look at its header where libsndfile can read it."""
    if clip.start is not None or clip.end is not None:
        others = ", ".join(FORMATS)
        raise DataError(f"{path}: codec keep cannot cut out {clip.start} to {clip.end} s; choose one of {others}")
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in AUDIO_SUFFIXES:
        raise DataError(f"{path}: suffix .{suffix} cannot be kept; allowed are {', '.join(AUDIO_SUFFIXES)}")
    content = path.read_bytes()
    if not content:
        raise DataError(f"{path}: no samples in it")
    if suffix not in _KNOWN_TO_LIBSNDFILE:
        return Sound(suffix, content)
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        if sound.frames == 0:
            raise DataError(f"{path}: no samples in it")
        frames = 0 if sound.frames == UNKNOWN else sound.frames
        return Sound(suffix, content, 0, frames, sound.samplerate, cut_off(sound))


def _encode(path: Path, clip: Clip, codec: str, sample_rate: int | None) -> Sound:
    """Decodes, cuts, resamples and encodes block by block."""
    kind, subtype = FORMATS[codec]
    level = VORBIS_COMPRESSION if codec == "ogg" else None
    stream, frames, clipped = io.BytesIO(), 0, 0
    with _decoded(path, clip) as (found, channels, blocks, remark):
        rate = sample_rate or found
        if refusal := refused_rate(codec, rate):
            raise DataError(f"{path}: {refusal}")
        if channels > MAX_CHANNELS:
            raise DataError(f"{path}: {channels} channels; at most {MAX_CHANNELS} can be stored; mix it down")
        with soundfile.SoundFile(stream, "w", rate, channels, subtype, format=kind, compression_level=level) as out:
            for block in _resampled(blocks, found, rate, channels):
                if not np.isfinite(block).all():
                    raise DataError(f"{path}: holds NaN or infinite samples")
                if subtype == "PCM_16":
                    clipped += int(np.count_nonzero(np.abs(block) > 1))
                out.write(block)
                frames += len(block)
    if frames == 0:
        end = "its end" if clip.end is None else f"{clip.end} s"
        raise DataError(f"{path}: no samples in it between {clip.start or 0} s and {end}")
    content = stream.getvalue()
    return Sound(codec, number_ogg_stream(content) if kind == "OGG" else content, clipped, frames, rate, remark)


@contextmanager
def _decoded(path: Path, clip: Clip) -> Iterator[tuple[int, int, Iterator[np.ndarray], str]]:
    """The rate (Hz), the channels and the blocks of a clip's stretch, float32 `(<= BLOCK, channels)`, and a remark.

    What libsndfile reads is read from front to back; FFmpeg's containers through `open_sound`.
    """
    if (clip.start or 0) < 0:
        raise DataError(f"{path}: starts at {clip.start} s, before the file does; give 0 or more")
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        try:
            sound = stack.enter_context(soundfile.SoundFile(file.fileno(), closefd=False))
        except soundfile.LibsndfileError:
            opened = stack.enter_context(_container(path, file))
            start, end = _frames(clip, opened.rate, opened.frames)
            channels = opened.read(start, 1).shape[1]
            places = range(start, end, BLOCK)
            yield opened.rate, channels, (opened.read(at, min(BLOCK, end - at)) for at in places), ""
        else:
            yield sound.samplerate, sound.channels, _blocks(sound, clip), cut_off(sound)


@contextmanager
def _container(path: Path, file: BinaryIO) -> Iterator[Opened]:
    """An m4a, mp4, webm, …; an error names the file."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(open_sound(file))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        yield opened


def _frames(clip: Clip, rate: int, frames: int) -> tuple[int, int]:
    """The first frame of a clip's stretch, and the one after its last."""
    start = round((clip.start or 0) * rate)
    end = sys.maxsize if clip.end is None else round(clip.end * rate)
    return start, min(end, frames)


def _blocks(sound: soundfile.SoundFile, clip: Clip) -> Iterator[np.ndarray]:
    """The frames between a clip's start and end: float32 `(<= BLOCK, channels)`.

    Soundfile seeks after every read, and after a seek some decoders start without their past: those get a second
    before each block, which is thrown away.
    """
    at, end = _frames(clip, sound.samplerate, sound.frames)
    warm_up = round(WARM_UP * sound.samplerate) if sound.subtype in WARMING_UP else 0
    while at < end:
        lead = min(at, warm_up)
        if lead or sound.tell() != at:
            sound.seek(at - lead)
        block = sound.read(lead + min(end - at, BLOCK), dtype="float32", always_2d=True)[lead:]
        if not len(block):
            return
        at += len(block)
        yield block


def _resampled(blocks: Iterator[np.ndarray], source: int, target: int, channels: int) -> Iterator[np.ndarray]:
    """Blocks at `target` Hz: the same samples, bit for bit, as `soxr.resample` makes of the whole.

    They are no longer than BLOCK, either: some ten million frames at once end the process in the Vorbis encoder.
    """
    if source == target:
        yield from blocks
        return
    resampler = soxr.ResampleStream(source, target, channels, dtype="float32")
    for block in itertools.chain(blocks, [None]):
        made = resampler.resample_chunk(np.zeros((0, channels), np.float32) if block is None else block, block is None)
        yield from (made[start : start + BLOCK] for start in range(0, len(made), BLOCK))


def number_ogg_stream(ogg: bytes) -> bytes:
    """Gives a file of one Ogg stream the stream number 0, which encoders draw by chance, and new checksums (RFC 3533).

    Ogg's CRC takes bits in the other order than zlib's, and starts and ends with 0 instead of ones.
    """
    content, start = bytearray(ogg), 0
    while start < len(content):
        lengths = content[start + 27 : start + 27 + content[start + 26]]
        end = start + 27 + len(lengths) + sum(lengths)
        content[start + 14 : start + 18] = content[start + 22 : start + 26] = bytes(4)  # stream number, checksum
        mirrored = zlib.crc32(content[start:end].translate(_BITS_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        content[start + 22 : start + 26] = int(f"{mirrored:032b}"[::-1], 2).to_bytes(4, "little")
        start = end
    return bytes(content)
