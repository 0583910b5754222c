"""How the cost of a training set grows with its size: indexing, opening, memory, the order of an epoch, resuming.

    python benchmarks/growth.py [--quick] [--json FILE]

`epoch` walks all draws of an epoch, with the coming shards announced, as for remote ones. Each size is measured in
a process of its own, on tars of 512 tiny samples. A ratio compares with ten times the row of a tenth of the
samples: 1 is linear growth, above 1 is less than linear. One million samples are extrapolated.
"""

import argparse
import io
import json
import multiprocessing
import tarfile
import tempfile
import time
import wave
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SIZES = [1_000, 10_000, 100_000]
PER_SHARD = 512
WHAT = {"index": "s", "open": "s", "memory": "MB", "shuffle": "s", "windows": "s", "epoch": "s", "resume": "s"}


def write_tars(folder: Path, count: int) -> None:
    """Tars of samples with two frames of sound and a short caption."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(bytes(4))
    for first in range(0, count, PER_SHARD):
        with tarfile.open(folder / f"{first // PER_SHARD:05d}.tar", "w") as tar:
            for number in range(first, min(first + PER_SHARD, count)):
                members = (("wav", sound.getvalue()), ("json", b'{"text": ["a click"]}'))
                for suffix, content in members:
                    info = tarfile.TarInfo(f"clip{number:08d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def resident() -> float:
    """Memory of this process, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status; this benchmark needs Linux")


def index_all(folder: str, answer: Any) -> None:
    """The first opening, which indexes; in a process of its own."""
    from atr.shards.read import ShardSet

    began = time.perf_counter()
    ShardSet([folder])
    answer.put({"index": time.perf_counter() - began})


def measure(folder: str, answer: Any) -> None:
    """Everything after the first opening; in a process of its own."""
    from atr.pipeline.mixture import EpochOrder, Mixture
    from atr.pipeline.sampler import TrainingOrder
    from atr.shards.read import ShardSet

    numbers: dict[str, float] = {}

    def clock(what: str, action: Any) -> Any:
        began = time.perf_counter()
        result = action()
        numbers[what] = time.perf_counter() - began
        return result

    before = resident()
    shards = clock("open", lambda: ShardSet([folder]))
    order = EpochOrder(shards, Mixture(), seed=0)
    numbers["memory"] = resident() - before
    clock("shuffle", lambda: order.numbers(1))
    windows = EpochOrder(shards, Mixture(window=16), seed=0)
    clock("windows", lambda: windows.numbers(1))
    whole = TrainingOrder(windows, 64, announce=lambda shards: None, ahead=16 * PER_SHARD)
    clock("epoch", lambda: deque(whole, maxlen=0))
    sampler = TrainingOrder(order, 64, resume_at=(3, len(order) // 64 - 2))
    sampler.set_epoch(3)
    clock("resume", lambda: next(iter(sampler)))
    answer.put(numbers)


def in_process(context: Any, target: Callable[[str, Any], None], folder: str) -> dict[str, float]:
    """What `target` measures, undisturbed by what this process holds."""
    answer = context.Queue()
    process = context.Process(target=target, args=(folder, answer))
    process.start()
    numbers = answer.get()
    process.join()
    return numbers


def grow(sizes: list[int]) -> list[dict[str, Any]]:
    """Rows for all sizes and the extrapolation."""
    context = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    before: dict[str, float] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_tars(Path(folder), size)
            numbers = in_process(context, index_all, folder) | in_process(context, measure, folder)
        for what, unit in WHAT.items():
            linear = 10 * before[what] if before else numbers[what]
            rows.append(
                {"name": f"growth/{what}/{size}", "value": numbers[what], "unit": unit, "peer": linear,
                 "ratio": linear / max(numbers[what], 1e-9)}
            )  # fmt: skip
        before = numbers
    factor = 1_000_000 / sizes[-1]
    for what, unit in WHAT.items():
        value = before[what] * factor
        rows.append(
            {"name": f"growth/{what}/1000000 (extrapolated)", "value": value, "unit": unit, "peer": value, "ratio": 1.0}
        )
    return rows


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 000 and 10 000 samples only")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    rows = grow(SIZES[:2] if arguments.quick else SIZES)
    table = Table("samples", *(f"{what} ({unit})" for what, unit in WHAT.items()))
    for label in dict.fromkeys(row["name"].split("/")[2] for row in rows):
        table.add_row(label, *(f"{row['value']:.4g}" for row in rows if row["name"].split("/")[2] == label))
    Console().print(table)
    if arguments.json:
        from atr.provenance import environment

        arguments.json.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
