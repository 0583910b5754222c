"""Opens sound files so that any stretch of them can be read: libsndfile, and FFmpeg for what it cannot read."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from atr.errors import DataError

# Decoded before the wanted stretch and thrown away: after a seek these decoders start without their past. Measured
# at the lowest bitrates: MP3 is wrong by up to 0.9 of full scale for up to 3212 samples; 0.25 s before is not always
# enough (8 kbit/s), 0.5 s always was (1e-7). Opus is off by up to 3e-2, after 1 s by 4e-3 at most, in 1 of 12 streams.
# Vorbis needs none, if the seek is the first thing done with a file: a seek after a read may come out wrong in it.
WARM_UP = 1.0  # s
WARMING_UP = {"MPEG_LAYER_III", "MPEG_LAYER_II", "MPEG_LAYER_I", "OPUS"}
UNKNOWN = 2**63 - 1  # libsndfile's frame count of a stream that does not tell
BLOCK = 65_536  # frames
STREAMED = 0x7FFFF000  # bytes; what writes into a pipe puts this or more as the size of the sound
SLACK = 0.1  # s; the duration that a video container tells is rounded, and its last packet may be padded
READABLE = "wav, flac, ogg, opus or mp3"


@dataclass
class Sound:
    """An open sound file of `frames` samples per channel at `rate` Hz.

    `read(start, count)` gives float32 `(n, channels)` from frame `start` on; n < count where the file ends or breaks.
    """

    rate: int
    frames: int
    read: Callable[[int, int], np.ndarray]
    slack: int = 0  # frames by which `frames` may be too many although nothing is missing
    notes: list[str] = field(default_factory=list)


@contextmanager
def open_sound(file: BinaryIO | str | bytes) -> Iterator[Sound]:
    """Opens the bytes of a sound file, a path, or an open binary file; reads no more of it than is asked for.

    Raises:
        DataError: no reader knows the format, or the one that does is not installed.
    """
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(_opened(source))
            frames = _count(source) if opened.frames == UNKNOWN else opened.frames
            if opened.frames == UNKNOWN:
                opened = stack.enter_context(_opened(source))  # counting has moved the file
            sound = _from_libsndfile(opened, frames)
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: a path ending in .raw
            sound = _from_ffmpeg(source, error)
        yield sound


def _from_libsndfile(opened: soundfile.SoundFile, frames: int) -> Sound:
    warm_up = round(WARM_UP * opened.samplerate) if opened.subtype in WARMING_UP else 0

    def read(start: int, count: int) -> np.ndarray:
        lead = min(start, warm_up)
        return _read(opened, start - lead, lead + count)[lead:]

    sound = Sound(opened.samplerate, frames, read)
    if opened.frames == UNKNOWN:
        sound.notes.append("does not say how long it is, so each use decodes all of it; convert it once to save time")
    # libsndfile takes the size of a cut-off wav from what is there; only its log tells what the header says.
    size = re.search(r"^data : (\d+) \(should be (\d+)\)", opened.extra_info, re.MULTILINE)
    if size and int(size[2]) < int(size[1]) < STREAMED:
        held = opened.frames / opened.samplerate
        sound.notes.append(ends_early(held, held * int(size[1]) / max(1, int(size[2]))))
    return sound


def ends_early(held: float, promised: float) -> str:
    """The remark about a file of `held` s whose header says `promised` s."""
    return f"ends after {held:.2f} s of the {promised:.2f} s its header promises"


def _read(opened: soundfile.SoundFile, start: int, count: int) -> np.ndarray:
    """Reads `(n, channels)`: all, or what comes before the place where the file ends or breaks."""
    samples = np.full((count, opened.channels), np.nan, np.float32)
    try:
        if start:
            opened.seek(start)
        return opened.read(out=samples)
    except soundfile.LibsndfileError:  # what was decoded before the error is in its place nevertheless
        empty = np.isnan(samples[:, 0])
        return samples[: empty.argmax() if empty.any() else count]


def _count(source: BinaryIO | str) -> int:
    """Frames of a sound file that does not tell, by decoding it block after block."""
    total = 0
    with _opened(source) as opened:
        while (count := len(_read(opened, 0, BLOCK))) == BLOCK:
            total += count
    return total + count


def _opened(source: BinaryIO | str) -> soundfile.SoundFile:
    if not isinstance(source, str):
        source.seek(0)
    return soundfile.SoundFile(source)


def _container(source: BinaryIO | str) -> str | None:
    """Names the format FFmpeg is asked to read. Nothing else is handed to it: it would follow playlists, too."""
    try:
        if isinstance(source, str):
            with open(source, "rb") as file:
                head = file.read(12)
        else:
            source.seek(0)
            head = source.read(12)
            source.seek(0)
    except OSError as error:
        raise DataError(f"cannot be opened ({error})") from error
    if head[4:8] == b"ftyp":
        return "MP4 (m4a, mp4, mov)"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "Matroska (webm, mkv)"
    return "AAC" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None


def _from_ffmpeg(source: BinaryIO | str, why_not: Exception) -> Sound:
    kind = _container(source)
    if kind is None:
        reason = why_not.error_string if isinstance(why_not, soundfile.LibsndfileError) else why_not
        raise DataError(f"cannot be decoded ({reason}); convert it to {READABLE}") from why_not
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: it found no FFmpeg
        raise DataError(
            f"is {kind} sound, which needs torchcodec and FFmpeg ({str(error).splitlines()[0]}): "
            f'pip install "atr[data]" and install FFmpeg with the system\'s packages, or convert it to {READABLE}'
        ) from error
    # A whole path, because FFmpeg takes a string like `http:…` or `concat:…` for an address.
    stream = Path(source).absolute() if isinstance(source, str) else source
    try:
        return _torchcodec_sound(AudioDecoder(stream), is_raw=kind == "AAC")
    except (RuntimeError, ValueError, IndexError) as error:  # ValueError: no sound beside the pictures
        reason = str(error).splitlines()[0]
        raise DataError(f"is {kind}, but no sound in it can be decoded ({reason}); convert it to {READABLE}") from error


def _torchcodec_sound(decoder: Any, is_raw: bool) -> Sound:
    """Frame 0 is the first sample that is played, whatever time the container gives it.

    A raw AAC stream tells no length, and FFmpeg's guess by bitrate is off by percents: it is counted.
    """
    about = decoder.metadata
    rate, header_start = about.sample_rate, about.begin_stream_seconds_from_header or 0.0
    origin = decoder.get_samples_played_in_range(0.0, max(0.0, header_start) + 1.0).pts_seconds

    def read(start: int, count: int) -> np.ndarray:
        lead = min(start, round(WARM_UP * rate))
        first, last = origin + (start - lead) / rate, origin + (start + count) / rate
        try:
            samples = decoder.get_samples_played_in_range(first, last)
        except (RuntimeError, ValueError):  # nothing is there
            return np.empty((0, about.num_channels), np.float32)
        return samples.data.numpy().T[lead : lead + count]

    if about.duration_seconds is None or is_raw:
        frames = 0
        while count := len(read(frames, 60 * rate)):
            frames += count
    else:
        frames = round((header_start + about.duration_seconds - origin) * rate)
    return Sound(rate, frames, read, slack=round(SLACK * rate))
