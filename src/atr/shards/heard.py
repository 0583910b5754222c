"""What the whole of a sound amounts to: its hash, its range, the samples that are clipped or not finite."""

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from atr.pipeline.decode import Sound, ends_early

# Frames decoded at a time (95 s at 44.1 kHz). Where a later block begins, lossy codecs are off by a little: they lose
# their past at a seek, and libsndfile's Python reader seeks after each read.
BLOCK = 1 << 22
SILENCE = 1e-3  # -60 dB of full scale
FULL_SCALE = 0.999  # lossy codecs move clipped samples a little, mostly beyond 1
CLIPPED_RUN = 3  # samples at full scale one after the other; a peak that just touches it has one or two
CLIPPED_SHARE = 1e-3


class Heard:
    """What the whole of a sound amounts to, gathered block by block.

    The hash is that of the samples at 16 bits, as a 16-bit file holds them exactly; up to BLOCK frames it is the same
    for a sound in a lossy file and for what that file decodes to.
    """

    def __init__(self, sound: Sound) -> None:
        self.frames = self.samples = self.clipped = self.odd = 0
        self.low, self.high = np.float32(np.inf), np.float32(-np.inf)  # per channel, from the first block on
        self.hash = hashlib.blake2b(digest_size=8)
        while len(block := sound.read(self.frames, max(0, min(BLOCK, sound.frames - self.frames)))):
            if not self.frames:
                self.hash.update(f"{sound.rate} {block.shape[1]} ".encode())
            self._take(block)
            if len(block) < BLOCK:
                break

    def _take(self, block: np.ndarray) -> None:
        self.frames += len(block)
        self.samples += block.size
        low, high = block.min(axis=0), block.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            self.odd += int(np.count_nonzero(~np.isfinite(block)))
            block = np.nan_to_num(block, nan=0.0, posinf=1.0, neginf=-1.0)
            low, high = block.min(axis=0), block.max(axis=0)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        if max(-low.min(), high.max()) >= FULL_SCALE:
            self.clipped += in_runs(np.abs(block) >= FULL_SCALE)
        scaled = block * np.float32(32768)
        self.hash.update(np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled).astype("<i2").tobytes())

    def number(self) -> int:
        """The first 64 bits of the hash."""
        return int.from_bytes(self.hash.digest()) or 1

    def faults(self, sound: Sound, min_seconds: float) -> Iterator[tuple[str, str]]:
        """Kind and detail of what is wrong with it."""
        seconds, promised = self.frames / sound.rate, sound.frames / sound.rate
        early = next((note for note in sound.notes if note.startswith("ends after")), "")
        if sound.frames == 0:
            yield "unreadable", "holds no samples"
        elif sound.frames - self.frames > sound.slack:
            yield "unreadable", ends_early(seconds, promised)
        elif early:
            yield "unreadable", early
        if not self.frames:
            return
        if self.odd:
            yield "not-finite", f"{self.odd} of {self.samples} samples are NaN or infinite"
        elif float(np.max(self.high - self.low)) / 2 < SILENCE:
            peak = float(max(np.abs(self.low).max(), np.abs(self.high).max()))
            offset = ", all of it a constant offset" if peak >= SILENCE else ""
            yield "silent", f"peak {_decibels(peak)} dBFS{offset}"
        if self.clipped > CLIPPED_SHARE * self.samples:
            yield "clipped", f"{self.clipped / self.samples:.2%} of its samples stand at full scale"
        if seconds < min_seconds:
            yield "too-short", f"{seconds:.3f} s; {min_seconds:g} s is the least"


def in_runs(loud: np.ndarray) -> int:
    """How many of the true places `(n, channels)` stand in runs of CLIPPED_RUN and more within their channel.

    >>> in_runs(np.array([1, 1, 0, 1, 1, 1, 1], bool)[:, None])
    4
    """
    count = len(loud) - CLIPPED_RUN + 1
    if count <= 0:
        return 0
    begins = np.logical_and.reduce([loud[ahead : ahead + count] for ahead in range(CLIPPED_RUN)])
    within = np.zeros_like(loud)
    for ahead in range(CLIPPED_RUN):
        within[ahead : ahead + count] |= begins
    return int(np.count_nonzero(within))


def _decibels(peak: float) -> str:
    return f"{20 * math.log10(peak):.1f}".replace("-", "−") if peak else "−∞"
