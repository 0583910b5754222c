"""Training steps per second beside `transformers`' ClapModel and, where it can be imported, open_clip's audio tower.

    python benchmarks/step.py [--captions audiocaps.csv] [--tokenizer FOLDER] [--quick] [--json FILE]

HTSAT-tiny + RoBERTa-base with random weights. A step is forward, loss, backward, optimizer and zero_grad. Ours starts
from the int16 waveform (log-mel, SpecAugment and DropPath included) and takes captions padded to the longest of the
batch. The peer is given its finished mel features (its own extractor, NumPy in the loader, is not counted, except in
`from_waveform`) and captions padded to 77, as its users do; in `equal_text` they are padded as ours. Optimizers: ours
is conf/optimizer/adam.yaml, the peer's its Trainer's default, fused AdamW. In `same_process_settings` the peer has
captions as ours and what ours sets on a CPU (fast_cpu of src/atr/models/compute.py). `tower` is forward and backward of
one tower: ours and open_clip's from the waveform; the text towers with captions as in a step.

Each side runs in a process of its own, as its users run it; they take turns, so that other load on the machine meets
both. Figures are medians; a ratio is the median of the turns' ratios. Memory is the peak of the side's process on a
CPU, of the allocator on a GPU. There, also larger batches, with and without torch.compile, and the share of the peak.
"""

import argparse
import csv
import json
import multiprocessing
import statistics
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from step_sides import SIDES, Side

from atr.config import demo_dir
from atr.provenance import environment

BATCH, ROUNDS = 16, 9
QUICK_BATCH, QUICK_ROUNDS = 2, 2
GPU_BATCHES = (64, 128, 256, 512, 768)
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16 FLOP/s of the SXM cards, NVIDIA's data sheets


def serve(kind: str, setting: dict[str, Any], pipe: Connection) -> None:
    """A side's process: answers each (method, arguments) with its result, or with the error as text."""
    side: Side = SIDES[kind](**setting)
    while (call := _next(pipe)) is not None:
        try:
            pipe.send((getattr(side, call[0])(**call[1]), None))
        except (RuntimeError, ImportError) as error:  # out of memory, no open_clip
            pipe.send((None, f"{type(error).__name__}: {str(error).splitlines()[0]}"))


def _next(pipe: Connection) -> Any:
    """The next call; None at the end, also when the asking process has ended."""
    try:
        return pipe.recv()
    except EOFError:
        return None


class Process:
    """A side in a process of its own."""

    def __init__(self, kind: str, setting: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(kind, setting, theirs), daemon=True)
        self.process.start()

    def __call__(self, method: str, **arguments: Any) -> Any:
        """The method's result; RuntimeError with its error."""
        self.pipe.send((method, arguments))
        result, error = self.pipe.recv()
        if error is not None:
            raise RuntimeError(error)
        return result

    def close(self) -> None:
        """Ends the process."""
        self.pipe.send(None)
        self.process.join()


def turns(ours: Process, peer: Process, rounds: int, batch: int, method: str, mine: Any, theirs: Any) -> dict[str, Any]:
    """Samples/s of both, medians, and the median ratio; one turn of each to warm up."""
    found: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        calls = [(ours, mine), (peer, theirs)]
        seconds = {id(call): call[0](method, number=number, **call[1]) for call in calls[:: 1 if number % 2 else -1]}
        found.append((seconds[id(calls[0])], seconds[id(calls[1])]))
    found = found[1:]
    ours_s, peer_s = (statistics.median(times) for times in zip(*found, strict=True))
    ratio = statistics.median(b / a for a, b in found)
    return {"value": batch / ours_s, "unit": "samples/s", "peer": batch / peer_s, "ratio": ratio}


def side_by_side(setting: dict[str, Any], precision: str, rounds: int, quick: bool) -> list[dict[str, Any]]:
    """The rows against transformers and open_clip in one precision."""
    rows: list[dict[str, Any]] = []
    ours, peer, batch = Process("atr", setting), Process("transformers", setting), setting["batch"]
    kind: dict[str, Any] = {"precision": precision}
    longest, padded = kind | {"longest": True}, kind | {"longest": False}

    def row(name: str, method: str, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
        rows.append({"name": name} | turns(ours, peer, rounds, batch, method, mine, theirs))
        print("{name}: {value:.2f} {unit}, peer {peer:.2f}, ratio {ratio:.2f}".format(**rows[-1]), flush=True)

    row(f"step/{precision}", "step", longest, padded)
    used = [process("peak") for process in (ours, peer)]
    memory = {"name": f"step/{precision}/memory", "value": used[0], "unit": "MB"}
    rows.append(memory | {"peer": used[1], "ratio": used[1] / used[0]})
    row(f"step/{precision}/equal_text", "step", longest, longest)
    if not quick:
        row(f"tower/text/{precision}", "text", longest, padded)
        row(f"step/{precision}/from_waveform", "step", longest, padded | {"from_waveform": True})
    peer("set_process")
    row(f"step/{precision}/same_process_settings", "step", longest, longest)
    peer.close()
    peer = Process("open_clip", setting)
    try:
        row(f"tower/{precision}", "audio", kind, kind)
    except RuntimeError as error:
        print(f"tower/{precision}: not measured beside open_clip ({error})", flush=True)
    peer.close()
    ours.close()
    return rows


def on_gpu(setting: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """bf16 samples/s, GB and share of the peak by batch size, compiled and not; there is no peer."""
    peak = next((value for name, value in PEAK.items() if name in torch.cuda.get_device_name()), None)
    rows: list[dict[str, Any]] = []
    eager: dict[int, int] = {}  # FLOPs of a step by its batch
    for compiled in (False, True):
        for batch in GPU_BATCHES:
            name = f"gpu/bf16/B{batch}" + ("/compiled" if compiled else "")
            ours = Process("atr", setting | {"batch": batch, "compiled": compiled})
            try:
                times = [
                    ours("step", number=n, precision="bf16", longest=True, repeat=10) / 10 for n in range(rounds + 2)
                ]
                seconds, memory = statistics.median(times[2:]), ours("peak")
                if not compiled:  # the counter sees eager calls only
                    eager[batch] = ours("flops")
            except RuntimeError as error:
                Console().print(f"{name}: not measured ({error})", highlight=False)
                continue
            finally:
                ours.close()
            rows.append({"name": name, "value": batch / seconds, "unit": "samples/s", "peer": None, "ratio": None})
            rows.append({"name": f"{name}/memory", "value": memory, "unit": "MB", "peer": None, "ratio": None})
            if peak and batch in eager:
                share = 100 * eager[batch] / seconds / peak
                rows.append({"name": f"{name}/peak", "value": share, "unit": "% of peak", "peer": None, "ratio": None})
    return rows


def read_captions(path: Path | None, count: int) -> list[str]:
    """The first `count` captions of a CSV with a column `caption`; without one, the demo's, repeated."""
    if path is None:
        import yaml

        lines = [
            text for texts in yaml.safe_load((demo_dir() / "captions.yaml").read_text()).values() for text in texts
        ]
    else:
        with path.open(newline="") as file:
            lines = [row["caption"] for row in csv.DictReader(file)]
    return [lines[number % len(lines)] for number in range(count)]


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="two clips a step, two rounds, fewer rows: within a minute"
    )
    parser.add_argument("--captions", type=Path, help="a CSV with a column `caption`, e.g. AudioCaps' train.csv")
    parser.add_argument("--tokenizer", type=Path, help="RoBERTa's: tokenizer.json, or vocab.json and merges.txt")
    parser.add_argument("--threads", type=int, help="of each side on a CPU")
    parser.add_argument("--rounds", type=int, help="turns of each side")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    gpu, threads = torch.cuda.is_available(), arguments.threads or torch.get_num_threads()
    batch, rounds = (QUICK_BATCH, QUICK_ROUNDS) if arguments.quick else (64 if gpu else BATCH, ROUNDS)
    rounds = arguments.rounds or rounds
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = str(demo_dir() / "tokenizer")
        if arguments.tokenizer:
            from transformers import RobertaTokenizer

            RobertaTokenizer.from_pretrained(arguments.tokenizer).save_pretrained(folder)
            tokenizer = folder
        captions = read_captions(arguments.captions, max(GPU_BATCHES) if gpu else batch * (rounds + 1))
        setting = {"batch": batch, "captions": captions, "tokenizer": tokenizer, "threads": threads}
        rows = [
            row for precision in ("bf16", "fp32") for row in side_by_side(setting, precision, rounds, arguments.quick)
        ]
        rows += on_gpu(setting, rounds) if gpu and not arguments.quick else []
    table = Table("", "atr", "peer", "ratio", "unit", title=f"batch {batch}, {'GPU' if gpu else 'CPU'}")
    for row in rows:
        numbers = [f"{row[key]:.2f}" if row[key] is not None else "" for key in ("value", "peer", "ratio")]
        table.add_row(row["name"], *numbers, row["unit"])
    Console().print(table)
    if arguments.json:
        words = "AudioCaps" if arguments.captions else "demo"
        result = {
            "environment": environment() | {"threads": threads},
            "batch": batch,
            "rounds": rounds,
            "captions": words,
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
