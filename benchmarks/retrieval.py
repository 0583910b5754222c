"""What retrieval costs by the size of the set, beside the whole matrix with every query's candidates sorted.

    python benchmarks/retrieval.py [--quick] [--json FILE]

Five captions for each clip, embeddings of width 512, both directions. Each side runs in a process of its own. Memory
is the most that the process ever holds, minus what it holds with the embeddings made. Intervals are of 1000 resamples.
The whole matrix is what `retrieval` did before: one product of all captions and clips, then a stable argsort and a mask
for each query. Growth compares with the smallest size: seconds for each similarity, and memory as it is.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from atr.evaluation.retrieval import measure_retrieval, retrieval
from atr.provenance import environment

WIDTH = 512
CAPTIONS = 5  # of a clip
QUICK = (500, 1000, 2000)  # clips
SIZES = (2500, 5000, 10_000)
NAMED = 5000  # the size of the rows retrieval/seconds and retrieval/memory
CUTOFFS = (1, 5, 10)
SIDES = ("atr", "atr with intervals", "whole matrix")

Cost = dict[str, Any]  # seconds, MB, and the numbers that came out


def example(clips: int) -> tuple[Tensor, Tensor, Tensor]:
    """Captions so near their clips that R@1 is about one half."""
    generator = torch.Generator().manual_seed(0)
    audio = F.normalize(torch.randn(clips, WIDTH, generator=generator), dim=1)
    owner = torch.arange(clips).repeat_interleave(CAPTIONS)
    text = torch.randn(len(owner), WIDTH, generator=generator).mul_(WIDTH**-0.5).add_(audio[owner], alpha=0.16)
    return audio, F.normalize(text, dim=1, out=text), owner


def whole_matrix(audio: Tensor, text: Tensor, clip_of_text: Tensor) -> dict[str, float]:
    """The plain way, without a rule for ties: all similarities at once, all candidates of each query sorted."""
    similarity, owner = (text @ audio.T).numpy(), clip_of_text.numpy()
    clips = np.arange(len(audio))
    queries = {
        "t2a": (sorted_places(row, clips == clip) for row, clip in zip(similarity, owner, strict=True)),
        "a2t": (sorted_places(similarity[:, clip], owner == clip) for clip in clips),
    }
    result: dict[str, float] = {}
    for name, places in queries.items():
        found = list(places)
        result |= {f"{name}/R@{k}": float(np.mean([place[0] <= k for place in found])) for k in CUTOFFS}
        precisions = [((np.arange(len(p)) + 1) / p)[p <= 10].sum() / len(p) for p in found]
        result[f"{name}/mAP@10"] = float(np.mean(precisions))
    return result


def sorted_places(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Places of the relevant candidates, 1 is best, ascending."""
    return np.flatnonzero(relevant[np.argsort(-scores, kind="stable")]) + 1


def run(side: str, clips: int, rounds: int, answer: Any) -> None:
    """Measures one side; in a process of its own."""
    arrays = example(clips)
    ids = [f"clip{number:06d}" for number in range(clips)]
    retrieval(*example(10))  # libraries set up their own memory
    Path("/proc/self/clear_refs").write_text("5")  # the highest point is counted from here
    before, times = memory("VmRSS"), []
    numbers: dict[str, float] = {}
    for _ in range(rounds):
        began = time.perf_counter()
        if side == "atr with intervals":
            numbers = {one.metric: one.value for one in measure_retrieval(*arrays, ids)}
        else:
            numbers = retrieval(*arrays) if side == "atr" else whole_matrix(*arrays)
        times.append(time.perf_counter() - began)
    answer.put({"seconds": statistics.median(times), "MB": memory("VmHWM") - before, "numbers": numbers})


def memory(what: str) -> float:
    """Of this process, MB."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines[what].split()[0]) / 1e3


def measure(clips: int, rounds: int) -> dict[str, Cost]:
    """The cost of each side, one after the other."""
    context = multiprocessing.get_context("fork")  # nothing has been computed yet, and imports take seconds
    costs: dict[str, Cost] = {}
    for side in SIDES:
        answer = context.Queue()
        process = context.Process(target=run, args=(side, clips, rounds if side == "atr" else 1, answer))
        process.start()
        costs[side] = answer.get()
        process.join()
    return costs


def rows_of(results: dict[int, dict[str, Cost]]) -> list[dict[str, Any]]:
    """The file's rows: each size and side beside the whole matrix, how they grow, and the two that stand for all."""
    rows: list[dict[str, Any]] = []

    def add(name: str, value: float, unit: str, peer: str, ratio: float | None) -> None:
        rows.append({"name": f"retrieval/{name}", "value": value, "unit": unit, "peer": peer, "ratio": ratio})

    smallest = min(results)
    for clips, costs in results.items():
        size, whole = f"{clips}x{CAPTIONS * clips}", costs["whole matrix"]
        for side, cost in costs.items():
            add(f"{size}/{side}/seconds", cost["seconds"], "s", "whole matrix", whole["seconds"] / cost["seconds"])
            add(f"{size}/{side}/memory", cost["MB"], "MB", "whole matrix", whole["MB"] / cost["MB"])
            for_each = cost["seconds"] / clips**2 / (results[smallest][side]["seconds"] / smallest**2)
            peer = f"{smallest} clips"
            add(f"{size}/{side}/seconds for each similarity", for_each, "of the smallest", peer, 1 / for_each)
            grown = cost["MB"] / results[smallest][side]["MB"]
            add(f"{size}/{side}/memory grown", grown, "of the smallest", peer, 1 / grown)
        apart = max(abs(value - costs["atr"]["numbers"][name]) for name, value in whole["numbers"].items())
        add(f"{size}/largest difference of a number", apart, "", "whole matrix", None)
    costs = results.get(NAMED) or results[max(results)]
    for what, key, unit in (("seconds", "seconds", "s"), ("memory", "MB", "MB")):
        add(what, costs["atr"][key], unit, "whole matrix", costs["whole matrix"][key] / costs["atr"][key])
    return rows


def main() -> None:
    """Prints the table and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sets: under 60 s on 2 cores")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    columns = [f"{side}, {unit}" for side in SIDES for unit in ("s", "MB")]
    table = Table(
        "clips x captions", *columns, "largest difference", title=f"retrieval, width {WIDTH}, both directions"
    )
    results: dict[int, dict[str, Cost]] = {}
    for clips in QUICK if arguments.quick else SIZES:
        results[clips] = measure(clips, 3)
        print(f"{clips} clips measured", flush=True)
        rows = rows_of(results)
        apart = next(row["value"] for row in reversed(rows) if "difference" in row["name"])
        cells = [f"{results[clips][side][key]:.3g}" for side in SIDES for key in ("seconds", "MB")]
        table.add_row(f"{clips} x {CAPTIONS * clips}", *cells, f"{apart:.1g}")
        if arguments.json:
            content = {"environment": environment() | {"system": platform.system()}, "rows": rows}
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
