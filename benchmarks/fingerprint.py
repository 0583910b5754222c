"""How well audio fingerprints tell a copy of a sound from other sounds, and what they cost.

    python benchmarks/fingerprint.py [FOLDER…] [--quick] [--json FILE]

FOLDERs hold sound files, or shards (default: the demo corpus). Recall: clips written again in another codec, rate or
level, cut, or put between others, looked up among all clips. False matches: all pairs of clips of different
recordings; the recording is what the first group of --source finds in a file's name. A match of two recordings is
counted as true where their waveforms correlate, too (people upload a recording twice), else as false. Clips that
cannot be fingerprinted are counted apart. `peer` is the row's aim; a ratio above 1 is better.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from rich.console import Console
from rich.table import Table

import atr
from atr.config import demo_dir
from atr.datasets import fingerprint
from atr.datasets.fingerprint import HOP, RATE, FingerprintIndex, can_be_matched, sound_words
from atr.pipeline.decode import open_sound
from atr.shards.read import ShardSet

VARIANTS = ("22.05 kHz ogg", "48 kHz flac", "mp3", "opus", "-6 dB", "3 s crop", "inside 20 s")
SAME = 0.3  # correlation of waveforms; other recordings have below 0.05
Heard = tuple[np.ndarray, int]  # waveform, Hz


def find_sounds(folders: list[Path]) -> dict[str, Path | bytes]:
    """Name -> sound file."""
    sounds: dict[str, Path | bytes] = {}
    for folder in folders:
        if tars := sorted(folder.rglob("*.tar")):
            shards = ShardSet(tars)
            sounds |= {shards.name(n).rpartition(":")[2]: shards.audio(n) for n in range(len(shards))}
        files = [one for one in sorted(folder.rglob("*")) if one.suffix in (".ogg", ".wav", ".flac", ".mp3", ".opus")]
        sounds |= {one.stem: one for one in files}
    return sounds


def decode(sound: Path | bytes) -> Heard:
    """Mono samples."""
    samples, rate = soundfile.read(io.BytesIO(sound) if isinstance(sound, bytes) else sound, dtype="float32")
    return samples.reshape(len(samples), -1).mean(axis=1), rate


def words_of(sound: Path | bytes) -> np.ndarray:
    """The fingerprint of a file."""
    with open_sound(sound if isinstance(sound, bytes) else str(sound)) as opened:
        return sound_words(opened)


def encoded(heard: Heard, rate: int, kind: str, subtype: str | None = None) -> bytes:
    """The sound as a file of another kind."""
    file = io.BytesIO()
    samples = np.clip(soxr.resample(heard[0], heard[1], rate), -1, 1)
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def changed(task: tuple[str, Path | bytes, list[Path | bytes]]) -> dict[str, np.ndarray]:
    """The fingerprint of a clip in each variant; `others` stand around it in the last."""
    name, sound, others = task
    rng = np.random.default_rng(list(name.encode()))
    samples, rate = decode(sound)
    heard = samples, rate
    files = {
        "22.05 kHz ogg": encoded(heard, 22_050, "OGG", "VORBIS"),
        "48 kHz flac": encoded(heard, 48_000, "FLAC"),
        "mp3": encoded(heard, 44_100, "MP3"),
        "opus": encoded(heard, 48_000, "OGG", "OPUS"),
        "-6 dB": encoded((samples * 0.5, rate), rate, "FLAC"),
    }
    if len(samples) > 3 * rate:
        start = int(rng.integers(len(samples) - 3 * rate))
        files["3 s crop"] = encoded((samples[start : start + 3 * rate], rate), rate, "OGG", "VORBIS")
    around = [soxr.resample(*decode(one), rate) for one in others]
    room = max(0, 20 * rate - len(samples))
    start = int(rng.integers(room + 1))
    filler = np.resize(np.concatenate(around), room).astype(np.float32)
    files["inside 20 s"] = encoded((np.concatenate([filler[:start], samples, filler[start:]]), rate), rate, "OGG")
    return {variant: words_of(file) for variant, file in files.items()}


def correlation(a: Heard, b: Heard) -> float:
    """The largest correlation of a second of `a` with any second of `b`."""
    first, other = (np.diff(soxr.resample(*one, RATE).astype(np.float64)) for one in (a, b))
    best, energy = 0.0, np.concatenate([[0.0], np.cumsum(other**2)])
    size = 1 << (len(other) + RATE).bit_length()
    spectrum = np.fft.rfft(other, size)
    for start in range(0, len(first) - RATE + 1, RATE // 2):
        part = first[start : start + RATE]
        products = np.fft.irfft(spectrum * np.conj(np.fft.rfft(part, size)), size)[: len(other) - RATE + 1]
        norms = np.sqrt((part**2).sum() * (energy[RATE:] - energy[:-RATE])) + 1e-6
        best = max(best, float((np.abs(products) / norms).max(initial=0.0)))
    return best


def row(name: str, value: float, unit: str, aim: float, more_is_better: bool = True) -> dict[str, Any]:
    """A row of the results."""
    ratio = value / aim if more_is_better and aim else (aim + 1e-9) / (value + 1e-9)
    return {"name": f"fingerprint/{name}", "value": value, "unit": unit, "peer": aim, "ratio": ratio}


def recall(names: list[str], sounds: dict[str, Path | bytes], originals: list[np.ndarray], count: int) -> list[Any]:
    """Rows for each variant of `count` clips."""
    rng = np.random.default_rng(0)
    usable = [n for n, words in enumerate(originals) if can_be_matched(words)]
    chosen = [int(n) for n in rng.permutation(usable)[:count]]
    tasks = [
        (names[n], sounds[names[n]], [sounds[names[int(o)]] for o in rng.choice(len(names), 4) if o != n])
        for n in chosen
    ]
    with multiprocessing.get_context("fork").Pool() as pool:
        variants = pool.map(changed, tasks, chunksize=4)
    index, rows = FingerprintIndex(originals), []
    for variant in VARIANTS:
        places = [place for place, one in enumerate(variants) if variant in one]
        could = [place for place in places if can_be_matched(variants[place][variant])]
        matches = index.search([variants[place][variant] for place in could])
        own = [match for match in matches if match.clip == chosen[could[match.query]]]
        rows.append(row(f"recall/{variant}", len(own) / len(could), f"of {len(could)} clips", 1.0))
        rows.append(row(f"cannot/{variant}", len(places) - len(could), f"of {len(places)} clips", 0, False))
        errors, scores = [match.error for match in own], [match.score for match in own]
        rows.append(row(f"error/{variant}", float(np.quantile(errors, 0.99)), "of bits, 99th percentile", 0.35, False))
        rows.append(row(f"score/{variant}", float(np.quantile(scores, 0.01)), "sd, 1st percentile", 8.0))
    return rows


@contextlib.contextmanager
def no_limits() -> Iterator[None]:
    """All pairs that are compared come back as matches."""
    limits = fingerprint.MAX_ERROR, fingerprint.MIN_SCORE
    fingerprint.MAX_ERROR, fingerprint.MIN_SCORE = 1.0, -1e9
    try:
        yield
    finally:
        fingerprint.MAX_ERROR, fingerprint.MIN_SCORE = limits


def nearest_anywhere(originals: list[np.ndarray], sources: list[str], count: int) -> list[Any]:
    """Rows for `count` clips against all others at every alignment, with and without a word in common."""
    gap = max(map(len, originals))
    starts = np.cumsum([0, *(len(words) + gap for words in originals)])
    size = 1 << int(starts[-1] + gap).bit_length()

    def spectra(words: np.ndarray) -> np.ndarray:
        heard = words != 0
        bits = (words[None] >> np.arange(32, dtype=np.uint32)[:, None]) & np.uint32(1)
        planes = np.concatenate([np.where(heard, bits * 2.0 - 1.0, 0.0), heard[None]]).astype(np.float32)
        return np.fft.rfft(planes, size, axis=1).astype(np.complex64)

    every = np.zeros(starts[-1], np.uint32)
    for start, words in zip(starts[:-1], originals, strict=True):
        every[start : start + len(words)] = words
    database, best, errors = spectra(every), 0.0, [1.0]
    usable = [n for n, words in enumerate(originals) if can_be_matched(words)]
    for query in np.random.default_rng(1).permutation(usable)[:count]:
        own = np.conj(spectra(originals[query]))
        agree = np.fft.irfft((database[:32] * own[:32]).sum(axis=0), size) / 32
        frames = np.maximum(np.fft.irfft(database[32] * own[32], size), 1.0)
        likely = np.argsort(-np.where(frames > 16, agree / np.sqrt(frames), 0.0))[:2000]
        for at in likely.tolist():
            offset_in_all = at if at < starts[-1] else at - size
            clip = int(np.searchsorted(starts, offset_in_all + gap, side="right")) - 1
            for one in {max(0, clip - 1), min(clip, len(originals) - 1)}:
                offset, words = offset_in_all - int(starts[one]), originals[one]
                if sources[one] == sources[query] or not -len(originals[query]) < offset < len(words):
                    continue
                with no_limits():
                    match = fingerprint.compare(originals[query], words, offset)
                if match is not None:
                    best = max(best, match.score)
                    errors += [match.error] if match.seconds >= 1 else []
    pairs = f"{count} clips against {len(originals)}, at every alignment"
    return [
        row("score/nearest other anywhere", best, f"sd, {pairs}", fingerprint.MIN_SCORE, False),
        row("error/nearest other anywhere", min(errors), f"of bits over 1 s or more, {pairs}", fingerprint.MAX_ERROR),
    ]


def false_matches(
    names: list[str], sounds: dict[str, Path | bytes], originals: list[np.ndarray], sources: list[str]
) -> list[Any]:
    """Rows for all pairs of clips of different recordings."""
    counts = np.unique(sources, return_counts=True)[1]
    pairs = len(names) * (len(names) - 1) // 2 - int((counts * (counts - 1) // 2).sum())
    limits = fingerprint.MAX_ERROR, fingerprint.MIN_SCORE
    with no_limits():
        compared = FingerprintIndex(originals).search(originals)
    others = [m for m in compared if m.query < m.clip and sources[m.query] != sources[m.clip]]
    false, again, near_score = [], 0, 0.0
    for match in sorted(others, key=lambda one: -one.score):
        matched = match.error <= limits[0] and match.score >= limits[1]
        alike = match.score > 4 and correlation(*(decode(sounds[names[n]]) for n in (match.query, match.clip))) > SAME
        if matched:
            what = "the same recording" if alike else "FALSE"
            print(f"{names[match.query]} = {names[match.clip]}: error {match.error:.3f}, {match.score:.1f} sd: {what}")
        if alike:
            again += matched
            continue
        near_score = max(near_score, match.score)
        false += [match] if matched else []
    unmatchable = sum(not can_be_matched(words) for words in originals)
    return [
        row("false matches", len(false), f"of {pairs} pairs", 0, False),
        row("recordings uploaded twice", again, "pairs", again),
        row("pairs compared bit by bit", len(others), f"of {pairs} pairs", pairs, False),
        row("score/nearest false", near_score, f"sd, of {len(others)} pairs with words alike", limits[1], False),
        row("cannot be fingerprinted", unmatchable, f"of {len(names)} clips", 0, False),
    ]


def cost(originals: list[np.ndarray], seconds: float, decoded: float, clips: int = 5000) -> list[Any]:
    """Rows for speed and memory; the index holds real clips, and copies with their bits turned to fill it."""
    turns = [np.uint32(turn) for turn in range(32)]
    every = [
        np.where(words, (words << turn) | (words >> ((np.uint32(32) - turn) % np.uint32(32))), 0).astype(np.uint32)
        for turn in turns
        for words in originals
    ]
    began = time.process_time()
    index = FingerprintIndex(every[:clips])
    made = time.process_time() - began
    queries = originals[:512]
    began = time.process_time()
    index.search(queries)
    searched = (time.process_time() - began) / len(queries) * 1000
    size = sum(len(words) for words in every[:clips])
    return [
        row("speed", len(originals) / seconds, "clips/s and core", len(originals) / seconds),
        row("speed/sound", decoded / seconds, "s of sound per s and core", decoded / seconds),
        row(f"index of {len(every[:clips])} clips", made, "s", made),
        row(f"search among {len(every[:clips])} clips", searched, "s per 1000 clips", searched),
        row("memory of the index", size * 12 / 1e6 + 16.8, "MB", size * 12 / 1e6 + 16.8),
        row("stored", 4 * size / len(every[:clips]), "bytes per clip", 4 * size / len(every[:clips])),
    ]


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="of sounds or shards")
    parser.add_argument("--quick", action="store_true", help="40 clips are changed instead of 300")
    parser.add_argument("--source", default=r"^(?:\d-)?(\d+)-", help="regular expression for the recording's name")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    sounds = find_sounds(arguments.folders or [demo_dir() / "esc10"])
    names = list(sounds)
    found = [re.search(arguments.source, name) for name in names]
    sources = [one[1] if one else name for one, name in zip(found, names, strict=True)]
    began = time.process_time()
    originals = [words_of(sound) for sound in sounds.values()]
    seconds = time.process_time() - began
    if any((words_of(sounds[name]) != words).any() for name, words in zip(names[:20], originals, strict=False)):
        raise SystemExit("the same file gave other words")
    heard = sum(len(words) for words in originals) * HOP / RATE
    rows = recall(names, sounds, originals, 40 if arguments.quick else 300)
    rows += false_matches(names, sounds, originals, sources)
    rows += nearest_anywhere(originals, sources, 8 if arguments.quick else 60)
    rows += cost(originals, seconds, heard)
    table = Table("what", "value", "unit", "aim")
    for one in rows:
        table.add_row(
            one["name"].removeprefix("fingerprint/"), f"{one['value']:.4g}", one["unit"], f"{one['peer']:.4g}"
        )
    Console().print(table)
    if arguments.json:
        from atr.provenance import environment

        about = {"clips": len(names), "recordings": len(set(sources)), "atr": atr.__version__}
        content = {"environment": environment(), "data": about, "rows": rows}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
