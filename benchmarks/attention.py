"""Which attention kernel trains HTSAT faster on this machine: timm's plain one or PyTorch's fused one (SDPA).

    python benchmarks/attention.py [--quick] [--json FILE]

One training step (forward and backward) of the audio encoder per measurement, the two kernels in turns, medians.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from atr.models.htsat import HTSAT
from atr.provenance import environment
from atr.tasks.trainer import best_precision

SIZES = {
    "demo": {"picture_size": 128, "embed_dim": 32, "depths": [1, 1, 2, 1], "heads": [2, 4, 8, 16]},
    "tiny": {"picture_size": 256, "embed_dim": 96, "depths": [2, 2, 6, 2], "heads": [4, 8, 16, 32]},
}
BATCH = {"demo": 32, "tiny": 4}


def step_seconds(model: HTSAT, log_mel: torch.Tensor, bf16: bool) -> float:
    """Wall time of one forward and backward pass."""
    cuda = log_mel.is_cuda
    if cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    with torch.autocast(log_mel.device.type, dtype=torch.bfloat16, enabled=bf16):
        model(log_mel).float().square().mean().backward()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(size: str, bf16: bool, rounds: int, device: torch.device) -> dict[str, float]:
    """Clips per second with each kernel."""
    batch = BATCH[size] * (16 if device.type == "cuda" else 1)
    models = {kind: HTSAT(**SIZES[size], attention=kind).to(device) for kind in ("plain", "sdpa")}  # type: ignore[arg-type]
    frames = SIZES[size]["picture_size"] ** 2 // 64  # type: ignore[operator]
    log_mel = torch.randn(batch, frames, 64, device=device)
    times: dict[str, list[float]] = {kind: [] for kind in models}
    for model in models.values():
        for _ in range(2):
            step_seconds(model, log_mel, bf16)
    for _ in range(rounds):
        for kind, model in models.items():
            times[kind].append(step_seconds(model, log_mel, bf16))
    return {kind: batch / statistics.median(seconds) for kind, seconds in times.items()}


def main() -> None:
    """Prints the table and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under 60 s on 2 cores")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = [(size, bf16) for size in SIZES for bf16 in (False, True)]
    table = Table(
        "model", "precision", "plain clips/s", "sdpa clips/s", "sdpa / plain", title=f"training step, {device}"
    )
    rows = []
    for size, bf16 in track(cases, "measuring", transient=True):
        speed = compare(size, bf16, 3 if arguments.quick else 10, device)
        ratio, precision = speed["sdpa"] / speed["plain"], "bf16" if bf16 else "fp32"
        table.add_row(size, precision, f"{speed['plain']:.1f}", f"{speed['sdpa']:.1f}", f"{ratio:.2f}")
        for kind, other in (("plain", "sdpa"), ("sdpa", "plain")):
            value = {"name": f"attention/{size}/{precision}/{kind}", "value": speed[kind], "unit": "clips/s"}
            rows.append(value | {"peer": other, "ratio": speed[kind] / speed[other]})
    Console().print(table)
    if arguments.json:
        result = {"environment": environment() | {"system": platform.system()}, "rows": rows}
        result["precision"] = best_precision("auto")
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
