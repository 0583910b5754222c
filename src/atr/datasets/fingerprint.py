"""Audio fingerprints: is a sound a piece of another one, whatever its codec, rate, level and place in it?

After Haitsma and Kalker, A Highly Robust Audio Fingerprinting System, ISMIR 2002: a word of 32 bits for each frame,
bit b the sign of E(t, b) - E(t, b+1) - (E(t-1, b) - E(t-1, b+1)), E the energy in a band. The bands reach from 200 to
4000 Hz here (300 to 2000 Hz there), because sounds of the environment are no music. Of a steady noise the bits are the
random course of this very recording, so it is recognised, too; of silence and of steady tones there is nothing to tell.
Two recordings of one electronic signal (an alarm clock, a click track) are the same sound to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from atr.pipeline.decode import Sound

RATE = 11_025  # Hz
WINDOW = 4096  # samples, 0.37 s
HOP = 256  # samples, 23 ms
EDGES = np.round(np.geomspace(200.0, 4000.0, 34) * WINDOW / RATE).astype(int)  # of the 33 bands, FFT bins
SILENT = 10**-6.5  # mean square in the bands: -65 dB of full scale
FAINT = 1e-6  # of a frame's energy; a tone has less than this in most bands: rounding and the codec, not a sound.
BANDS = 16  # that must have more; 0.02 % of the frames of ESC-10 and UrbanSound8K have fewer, a tone has up to 8
BLOCK = 60  # s decoded at a time
FRAMES = 512  # transformed at a time

MAX_ERROR = 0.35  # share of bits that differ, as in the paper
MIN_SCORE = 8.0  # standard deviations from what chance gives
ENOUGH = 128  # runs of equal bits in time; all clicks have the same few, and a lossy copy would not reach MIN_SCORE
COMMON = 256  # a word that the index holds more often is not looked up
TOGETHER = 16  # queries looked up at a time: periodic sounds, of few words, have up to 3 million hits each
OFFSETS = 16  # tried for each pair, those with most words in common first
_ONES = np.array([number.bit_count() for number in range(1 << 16)], np.int64)
_HANN = np.hanning(WINDOW).astype(np.float32)
_SHIFTS = np.arange(32, dtype=np.uint32)


@dataclass(frozen=True)
class Match:
    """Two sounds that hold the same stretch.

    Attributes:
        query, clip: their places in what was searched and in the index.
        error: share of the bits that differ.
        score: how far that is from chance, in standard deviations.
        seconds: frames that are not silent in both, as time.
    """

    query: int
    clip: int
    error: float
    score: float
    seconds: float


def sound_words(sound: Sound, start: float | None = None, end: float | None = None) -> np.ndarray:
    """The words of a file, or of the stretch from `start` to `end` s of it: uint32 `(N,)`, see `words`."""
    resampler = soxr.ResampleStream(sound.rate, RATE, 1, dtype="float32", quality="HQ")
    at, stop = round((start or 0.0) * sound.rate), sound.frames if end is None else round(end * sound.rate)
    energies, rest, more = [], np.empty(0, np.float32), True
    while more:
        wanted = max(0, min(BLOCK * sound.rate, stop - at))
        samples = sound.read(at, wanted) if wanted else np.empty((0, 1), np.float32)
        at += len(samples)
        more = 0 < wanted == len(samples) and at < stop
        mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
        rest = np.concatenate([rest, resampler.resample_chunk(np.ascontiguousarray(mono), last=not more)])
        energies.append(_energies(rest))
        rest = rest[HOP * len(energies[-1]) :]  # of an hour nothing but the energies is held
    return _signs(np.concatenate(energies))


def words(waveform: np.ndarray) -> np.ndarray:
    """The words of a mono sound at `RATE` Hz, one for each `HOP`; 0 stands for silence and for tones.

    Args:
        waveform: float32 `(T,)`.

    Returns:
        uint32 `(N,)`; empty when the sound is shorter than a window and a hop.
    """
    return _signs(_energies(waveform))


def _signs(energy: np.ndarray) -> np.ndarray:
    """The words of frames with these energies `(N + 1, 33)`."""
    if len(energy) < 2:
        return np.empty(0, np.uint32)
    slope = energy[:, :-1] - energy[:, 1:]
    bits = slope[1:] > slope[:-1]
    found = (bits.astype(np.uint32) << _SHIFTS).sum(axis=1, dtype=np.uint32)
    whole = energy[1:].sum(axis=1)
    wide = (energy[1:] > FAINT * whole[:, None]).sum(axis=1) >= BANDS
    return np.where((whole > SILENT) & wide, np.maximum(found, 1), 0).astype(np.uint32)


def _energies(waveform: np.ndarray) -> np.ndarray:
    """Mean square in each band of each whole window, `(frames, 33)`."""
    if len(waveform) < WINDOW:
        return np.empty((0, len(EDGES) - 1), np.float32)
    waveform = np.nan_to_num(waveform, nan=0.0, posinf=0.0, neginf=0.0)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP]
    return np.concatenate([_in_bands(frames[at : at + FRAMES]) for at in range(0, len(frames), FRAMES)])


def _in_bands(frames: np.ndarray) -> np.ndarray:
    """Mean square of `(frames, WINDOW)` in each band, `(frames, 33)`."""
    spectrum = np.fft.rfft(frames * _HANN, axis=1)[:, : EDGES[-1]]
    power = spectrum.real**2 + spectrum.imag**2
    return np.add.reduceat(power, EDGES[:-1], axis=1) * (2 / WINDOW / float((_HANN**2).sum()))


def can_be_matched(found: np.ndarray) -> bool:
    """Does a sound with these words change enough to be told from others?"""
    return _runs(found[found != 0]) >= ENOUGH


class FingerprintIndex:
    """The words of an evaluation set, sorted, so that those of other sounds are found among them.

    Args:
        clips: words of each clip.
    """

    def __init__(self, clips: Sequence[np.ndarray]) -> None:
        self.clips = clips
        lengths = [len(one) for one in clips]
        every = np.concatenate([*clips, np.empty(0, np.uint32)])
        clip, frame = np.repeat(np.arange(len(clips)), np.asarray(lengths, int)), _frames(lengths)
        order = np.argsort(every, kind="stable")[np.count_nonzero(every == 0) :]  # silence is not looked for
        self._words, self._clip, self._frame = every[order], clip[order].astype(np.int32), frame[order].astype(np.int32)
        self._may_hold = np.zeros(1 << 24, bool)  # by the upper 24 bits: most words need no search
        self._may_hold[self._words >> np.uint32(8)] = True

    def search(self, queries: Sequence[np.ndarray]) -> list[Match]:
        """The pairs that hold the same stretch, each once, in the order of the queries.

        A pair is compared where two words differ in one bit or none. It matches when at most `MAX_ERROR` of the bits
        differ, and when chance would be `MIN_SCORE` standard deviations away: of n runs of equal bits each is right
        with probability 1/2. Words that do not change make no runs, and fewer than `ENOUGH` prove nothing.
        """
        best: dict[tuple[int, int], Match] = {}
        tried: dict[tuple[int, int], int] = {}
        together = [queries[first : first + TOGETHER] for first in range(0, len(queries), TOGETHER)]
        candidates = (
            (TOGETHER * part + query, clip, offset)
            for part, some in enumerate(together)
            for query, clip, offset in self._candidates(some)
        )
        for query, clip, offset in candidates:
            pair = query, clip
            tried[pair] = tried.get(pair, 0) + 1
            if tried[pair] > OFFSETS:
                continue
            match = compare(queries[query], self.clips[clip], offset, pair)
            if match is not None and (pair not in best or match.score > best[pair].score):
                best[pair] = match
        return [best[pair] for pair in sorted(best)]

    def _candidates(self, queries: Sequence[np.ndarray]) -> list[tuple[int, int, int]]:
        """(query, clip, frames by which the query begins later in the clip), most words in common first."""
        lengths = [len(one) for one in queries]
        every = np.concatenate([*queries, np.empty(0, np.uint32)])
        query, frame = np.repeat(np.arange(len(queries)), np.asarray(lengths, int)), _frames(lengths)
        place, word = self._near(every)
        first = np.searchsorted(self._words, word, "left")
        count = np.searchsorted(self._words, word, "right") - first
        count[count > COMMON] = 0
        query, frame = query[place], frame[place]
        at = np.repeat(first, count) + _frames(count)
        offset = self._frame[at] - np.repeat(frame, count)
        triples = np.stack([np.repeat(query, count), self._clip[at], offset])
        shape = (len(queries), max(1, len(self.clips)), 1 << 31)
        keys, hits = np.unique(np.ravel_multi_index((*triples[:2], triples[2] + (1 << 30)), shape), return_counts=True)
        ordered = keys[np.argsort(-hits, kind="stable")]
        found = np.stack(np.unravel_index(ordered, shape), axis=1)
        found[:, 2] -= 1 << 30
        return [(int(q), int(c), int(o)) for q, c, o in found]

    def _near(self, every: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The words to look up, which differ in one bit at most: places in `every`, and words the index may hold."""
        places, near = [], []
        for flip in [0, *(1 << bit for bit in range(32))]:
            looked = every ^ np.uint32(flip)
            place = np.flatnonzero(self._may_hold[looked >> np.uint32(8)] & (every != 0))
            places.append(place)
            near.append(looked[place])
        return np.concatenate(places), np.concatenate(near)


def _frames(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """0, 1, … for each length, one after the other."""
    lengths = np.asarray(lengths, np.int64)
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def compare(query: np.ndarray, clip: np.ndarray, offset: int, pair: tuple[int, int] = (0, 0)) -> Match | None:
    """Do the words match where `query` begins `offset` frames later than `clip`?"""
    begin, end = max(0, -offset), min(len(query), len(clip) - offset)
    mine, other = query[begin:end], clip[begin + offset : end + offset]
    heard = (mine != 0) & (other != 0)
    mine, other = mine[heard], other[heard]
    if not len(mine):
        return None
    runs = min(_runs(mine), _runs(other))
    error = float(_ones(mine ^ other)) / (32 * len(mine))
    score = (0.5 - error) * 2 * runs**0.5
    if error > MAX_ERROR or score < MIN_SCORE or runs < ENOUGH:
        return None
    return Match(*pair, error, score, len(mine) * HOP / RATE)


def _runs(found: np.ndarray) -> int:
    """Runs of equal bits in time, over all 32 rows: as many independent bits there are about."""
    return int(_ones(found[1:] ^ found[:-1])) + 32 if len(found) else 0


def _ones(found: np.ndarray) -> int:
    """Bits set in all words together."""
    return int(_ONES[found & 0xFFFF].sum() + _ONES[found >> 16].sum())
