"""Samples per second of one loading process: ours beside webdataset with full decode, resample and crop.

    python benchmarks/loading.py [--quick] [--json FILE]

Both read the same FLAC shards (16 bit, mono, generated sound) of 10, 30 and 120 s clips at 48 and 44.1 kHz
and make batches of 10 s crops at 48 kHz with tokenised captions from them. The peer decodes a whole clip,
quantises it to 16 bit and back, crops, and stacks float32, as LAION-CLAP does (LAION-AI/CLAP at 1fd4c37,
training/data.py); where the rate differs it resamples the whole clip first, with soxr, as we do. Ours decodes
the crop and stacks int16. Their rounds alternate; figures are medians over the rounds.
Seconds are the process's own CPU time (the shards are in the page cache), so that other load on the machine does not
count. Memory is the peak of a process that does nothing else, above what it holds before its first sample.
"""

import argparse
import io
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from atr.config import demo_dir
from atr.models.text import Tokenizer
from atr.pipeline.audio import INT16_PEAK, repeat_pad
from atr.pipeline.collate import Collate
from atr.pipeline.dataset import Training, TrainingDataset
from atr.pipeline.mixture import EpochOrder, Mixture
from atr.pipeline.sampler import TrainingOrder
from atr.shards.read import ShardSet
from atr.shards.write import write_shards
from atr.types import Clip, Sample

SECONDS, RATE = 10.0, 48_000  # of a crop
BATCH = 8
CLIPS = {10: 48, 30: 24, 120: 16}  # of each duration, s
ROUNDS = 15
QUICK_CLIPS, QUICK_ROUNDS = {10: 24, 30: 16, 120: 8}, 5


def make_shards(folder: Path, seconds: int, rate: int, count: int) -> Path:
    """Clips of coloured noise with a tone in it, so that FLAC has something to predict."""
    rng = np.random.default_rng(seconds)
    (folder / "sounds").mkdir(parents=True)
    clips = []
    for number in range(count):
        noise = np.cumsum(rng.standard_normal(seconds * rate))
        noise -= np.convolve(noise, np.ones(512) / 512, mode="same")
        tone = np.sin(2 * np.pi * (200 + 20 * number) * np.arange(seconds * rate) / rate)
        path = folder / "sounds" / f"clip{number:03d}.wav"
        soundfile.write(path, 0.2 * tone + 0.2 * noise / np.abs(noise).max(), rate, subtype="PCM_16")
        clips.append(Clip(id=path.stem, audio=str(path), captions=[f"a tone in noise, number {number}"]))
    write_shards(clips, folder / "shards", codec="flac", clips_per_shard=count, progress=False)
    for path in (folder / "sounds").iterdir():
        path.unlink()
    return folder / "shards"


def our_batches(shards: Path, tokenizer: Tokenizer) -> Iterator[Any]:
    """Batches of this project, in one process."""
    held = ShardSet([shards])
    dataset = TrainingDataset(held, Training(SECONDS, RATE, tokenizer.mask_token), seed=0)
    order = TrainingOrder(EpochOrder(held, Mixture(), seed=0), BATCH)
    loader = torch.utils.data.DataLoader(dataset, BATCH, sampler=order, collate_fn=Collate(tokenizer))
    for epoch in range(1_000_000):
        order.set_epoch(epoch)
        yield from loader


def peer_batches(shards: Path, tokenizer: Tokenizer) -> Iterator[Any]:
    """Batches by webdataset, full decode, resample, crop; in one process."""
    import webdataset

    def decoded(raw: dict[str, Any]) -> Any:
        waveform, rate = soundfile.read(io.BytesIO(raw["flac"]), dtype="float32")
        if waveform.ndim > 1:
            waveform = waveform.mean(axis=1)
        if rate != RATE:
            waveform = soxr.resample(waveform, rate, RATE)
        whole = (torch.from_numpy(waveform).clamp(-1.0, 1.0) * INT16_PEAK).to(torch.int16)
        waveform = (whole / INT16_PEAK).numpy()
        length = round(SECONDS * RATE)
        start = random.randint(0, max(0, len(waveform) - length))
        captions = [json.loads(raw["json"])["text"][0]]
        crop = repeat_pad(waveform[start : start + length], length)
        return Sample(raw["__key__"], crop, captions, captions, [], ""), []

    tars = sorted(map(str, shards.glob("*.tar")))
    dataset = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).shuffle(BATCH).map(decoded).repeat()
    yield from torch.utils.data.DataLoader(dataset, BATCH, collate_fn=Collate(tokenizer))


KINDS: dict[str, Callable[[Path, Tokenizer], Iterator[Any]]] = {"atr": our_batches, "webdataset": peer_batches}


def speeds(shards: Path, count: int, rounds: int) -> tuple[float, float, float]:
    """Samples/s of both, and the ratio; medians over rounds in which both take their turn."""
    tokenizer = Tokenizer(str(demo_dir() / "tokenizer"))
    batches = {kind: make(shards, tokenizer) for kind, make in KINDS.items()}
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        next(batches[kind])
    for number in range(rounds):
        for kind in sorted(KINDS, reverse=number % 2 == 1):  # neither always comes first
            began = time.process_time()
            for _ in range(count // BATCH):
                next(batches[kind])
            found[kind].append(count // BATCH * BATCH / (time.process_time() - began))
    ratios = [ours / peer for ours, peer in zip(*found.values(), strict=True)]
    ours, peer = (statistics.median(values) for values in found.values())
    return ours, peer, statistics.median(ratios)


def peak_memory(kind: str, shards: str, answer: Any) -> None:
    """MB that two batches of a duration cost, in a process of its own."""
    tokenizer = Tokenizer(str(demo_dir() / "tokenizer"))
    tokenizer(["a caption"])
    soxr.resample(np.zeros(4800, np.float32), 44_100, RATE)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports
    before = status("VmRSS")
    stream = KINDS[kind](Path(shards), tokenizer)
    for _ in range(2):
        next(stream)
    answer.put(status("VmHWM") - before)


def status(field: str) -> float:
    """A line of this process's status, MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def memory(shards: Path) -> dict[str, float]:
    """Peak MB of both."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for kind in KINDS:
        answer = context.Queue()
        process = context.Process(target=peak_memory, args=(kind, str(shards), answer))
        process.start()
        peaks[kind] = answer.get()
        process.join()
    return peaks


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer clips and rounds and no memory, within a minute")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts, rounds = (QUICK_CLIPS, QUICK_ROUNDS) if arguments.quick else (CLIPS, ROUNDS)
    rows: list[dict[str, Any]] = []
    places = [(seconds, rate) for rate in (48_000, 44_100) for seconds in counts]
    for seconds, rate in track(places, "loading", disable=not Console().is_terminal):
        name = f"loading/{seconds}s" + ("_44k" if rate == 44_100 else "")
        with tempfile.TemporaryDirectory() as folder:
            shards = make_shards(Path(folder), seconds, rate, counts[seconds])
            ours, peer, ratio = speeds(shards, counts[seconds], rounds)
            rows.append({"name": name, "value": ours, "unit": "samples/s", "peer": peer, "ratio": ratio})
            if not arguments.quick:  # each one starts a process
                ours, peer = memory(shards).values()
                rows.append({"name": f"{name}/memory", "value": ours, "unit": "MB", "peer": peer, "ratio": peer / ours})
    table = Table("", "atr", "webdataset", "ratio", "unit")
    for row in rows:
        table.add_row(row["name"], f"{row['value']:.1f}", f"{row['peer']:.1f}", f"{row['ratio']:.2f}", row["unit"])
    Console().print(table)
    if arguments.json:
        from atr.provenance import environment

        arguments.json.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
