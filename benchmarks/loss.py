"""What InfoNCE costs by the size of the batch: plain, in blocks (`loss.chunk`), and over two processes.

    python benchmarks/loss.py [--quick] [--json FILE]

Forward and backward over embeddings of width 512. Saved: bytes that the forward pass leaves for the backward pass.
Peak: the most that both passes hold at once. Both count the embeddings, and are read from the allocator, as hooks on
saved tensors do not see into checkpointed blocks. Seconds: medians; plain and blocks in turns, the two processes (gloo,
or NCCL with two GPUs; each with half of the threads and of the clips) after them. What does not fit into free memory is
left out, and so are 65 536 clips on a CPU, where a pass takes many minutes.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from atr.losses import InfoNCE
from atr.provenance import environment
from atr.types import Batch, Embeddings

WIDTH = 512
CHUNK = 1024
QUICK = (1024, 4096)
SIZES = {"cpu": (*QUICK, 16_384), "cuda": (*QUICK, 16_384, 65_536)}
NAMED = 16_384  # the size, or the largest one plain was measured at, of the rows loss/chunked_*
HELD = 18  # bytes for each logit that plain holds at its peak: decides what is not tried

Cost = dict[str, float]  # saved MB, peak MB, seconds


def example(size: int, device: torch.device, own: slice = slice(None)) -> tuple[Embeddings, Batch]:
    """A batch's embeddings (the rows `own` of it) and its ids; one caption in ten comes twice."""
    torch.manual_seed(0)
    sides = [F.normalize(torch.randn(size, WIDTH), dim=1)[own].to(device).requires_grad_() for _ in range(2)]
    number = torch.arange(size, device=device)[own]
    nothing = torch.zeros(len(number), 1)
    batch = Batch(
        waveform=nothing, input_ids=nothing, attention_mask=nothing, clip_id=number, source_id=number,
        label_id=number, corpus_id=number, caption_id=number % (size - size // 10), samples=[], clipped=0, bad=[],
    )  # fmt: skip
    return Embeddings(*sides), batch


def one_pass(loss: InfoNCE, embeddings: Embeddings, batch: Batch) -> float:
    """Seconds of forward and backward."""
    wait()
    began = time.perf_counter()
    loss(embeddings, batch).backward()
    wait()
    return time.perf_counter() - began


def measured_pass(loss: InfoNCE, embeddings: Embeddings, batch: Batch) -> Cost:
    """Saved and peak memory of a pass, MB."""
    embeddings.audio.grad = embeddings.text.grad = None
    values: list[Tensor] = []
    forward, saved = held(lambda: values.append(loss(embeddings, batch)))
    backward, _ = held(values[0].backward)
    peak, own = max(forward, saved + backward), 2 * embeddings.audio.nbytes
    return {"saved": (saved + own) / 1e6, "peak": (peak + own) / 1e6}


def held(work: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that `work` added at its highest point, and at its end."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        wait()
        return torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        work()
    assert trace.profiler is not None
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    levels = list(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    return max(levels), levels[-1]


def wait() -> None:
    """Until the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(losses: dict[str, InfoNCE], size: int, rounds: int, device: torch.device, own: slice) -> dict[str, Cost]:
    """Each loss's cost at a size: memory from a pass that is traced, seconds in turns."""
    embeddings, batch = example(size, device, own)
    costs = {name: measured_pass(loss, embeddings, batch) for name, loss in losses.items()}
    times: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(rounds):
        for name, loss in losses.items():
            times[name].append(one_pass(loss, embeddings, batch))
    return {
        name: cost | ({"seconds": statistics.median(times[name])} if rounds else {}) for name, cost in costs.items()
    }


def one_rank(rank: int, size: int, rounds: int, folder: str) -> None:
    """One of two processes, with its half of the clips; writes the cost of the slower and larger one."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    name = "nccl" if cuda else "gloo"
    dist.init_process_group(name, init_method=f"file://{folder}/store", rank=rank, world_size=2)
    half = slice(rank * size // 2, (rank + 1) * size // 2)
    costs = measure({"gathered": InfoNCE().to(device)}, size, rounds, device, half)["gathered"]
    both: list[Any] = [None, None]
    dist.all_gather_object(both, costs)
    if rank == 0:
        Path(folder, "cost.json").write_text(json.dumps({key: max(cost[key] for cost in both) for key in costs}))
    dist.destroy_process_group()


def gathered(size: int, rounds: int) -> Cost:
    """The cost for each of two processes."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(one_rank, args=(size, rounds, folder), nprocs=2)
        return json.loads(Path(folder, "cost.json").read_text())


def fits(bytes_needed: float, device: torch.device) -> bool:
    """Whether it takes no more than four fifths of the memory that is free."""
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else available_memory()
    return bytes_needed < 0.8 * free


def available_memory() -> float:
    """Bytes, of Linux."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return float(lines["MemAvailable"].split()[0]) * 1024


def costs_of(size: int, rounds: int, device: torch.device) -> dict[str, Cost]:
    """The ways that fit, by name."""
    losses = {"chunked": InfoNCE(chunk=CHUNK).to(device)}
    if fits(HELD * size**2, device):
        losses = {"plain": InfoNCE().to(device)} | losses
    costs = measure(losses, size, rounds, device, slice(None))
    if fits(HELD * size**2, device) and (device.type == "cpu" or torch.cuda.device_count() > 1):
        costs["gathered"] = gathered(size, rounds)
    return costs


def rows_of(results: dict[int, dict[str, Cost]]) -> list[dict[str, Any]]:
    """The file's rows: each size and way beside plain, and the two that stand for all."""
    rows: list[dict[str, Any]] = []
    for size, costs in results.items():
        for name, cost in costs.items():
            for what, unit in (("saved", "MB"), ("peak", "MB"), ("seconds", "s")):
                plain = costs.get("plain", {}).get(what)
                row = {"name": f"loss/{size}/{name}/{what}", "value": cost[what], "unit": unit, "peer": "plain"}
                rows.append(row | {"ratio": plain / cost[what] if plain else None})
    size = max(size for size, costs in results.items() if "plain" in costs and size <= NAMED)
    for name, what, unit in (("chunked_memory", "saved", "MB"), ("chunked_time", "seconds", "s")):
        plain, chunked = results[size]["plain"][what], results[size]["chunked"][what]
        row = {"name": f"loss/{name}", "value": chunked, "unit": unit, "peer": "plain", "ratio": plain / chunked}
        rows.append(row | {"batch": size})
    return rows


def main() -> None:
    """Prints the table and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches: under 60 s on 2 cores")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    columns = [f"{name} {what}" for name in ("plain", "chunked", "gathered") for what in ("saved", "peak", "s")]
    table = Table("batch", *columns, title=f"InfoNCE, width {WIDTH}, chunk {CHUNK}, {device}; MB and seconds")
    results: dict[int, dict[str, Cost]] = {}
    for size in QUICK if arguments.quick else SIZES[device.type]:
        results[size] = costs_of(size, 3 if arguments.quick or size >= NAMED else 5, device)
        cells = []
        for name in ("plain", "chunked", "gathered"):
            cost = results[size].get(name)
            cells += (
                [f"{cost['saved']:.0f}", f"{cost['peak']:.0f}", f"{cost['seconds']:.3g}"] if cost else ["skipped"] * 3
            )
        table.add_row(str(size), *cells)
        print(f"{size}: {', '.join(results[size])} measured", flush=True)
        if arguments.json:  # after each size, as the last ones take long on a CPU
            content = {"environment": environment() | {"system": platform.system()}, "rows": rows_of(results)}
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
