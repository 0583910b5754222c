"""`atr prepare`'s speed beside ffmpeg on the same files, and its memory by the number of clips.

    python benchmarks/prepare.py [FOLDER] [--quick] [--json FILE]

Converts the sounds of FOLDER (the demo corpus, unpacked, when none is given) to 48 kHz FLAC: with ffmpeg, as many
processes at a time as there are processors, a file or 32 files for each (its start costs more than a short clip), with
its own resampler and with soxr where it was built with it; and with `prepare`, which also hashes, indexes and packs
them. They take turns, three rounds, the median counts.
A ratio above 1 says that `prepare` is faster. Memory is the peak of all of prepare's processes together, for
1 000 and 10 000 clips of the same few files.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from atr.config import demo_dir
from atr.datasets.manifest import write_manifest
from atr.shards.scan import AUDIO_SUFFIXES
from atr.types import Clip

RATE = 48_000  # Hz
PROCESSORS = len(os.sched_getaffinity(0))
CHILD = """
import sys
from pathlib import Path
from atr.datasets.manifest import read_manifest
from atr.shards.prepare import Settings, prepare
prepare(read_manifest(Path(sys.argv[1])), Path(sys.argv[2]), Settings(sample_rate=48000), progress=False)
"""


def sounds(folder: Path | None, work: Path) -> list[Path]:
    """The files to convert."""
    if folder is None:
        folder = work / "demo"
        for tar in sorted((demo_dir() / "esc10").rglob("*.tar")):
            with tarfile.open(tar) as members:
                members.extractall(folder, filter="data")
    return sorted(path for path in folder.rglob("*") if path.suffix[1:].lower() in AUDIO_SUFFIXES)


def by_ffmpeg(files: list[Path], out: Path, together: int, *options: str) -> float:
    """Seconds for all files, `together` of them to a process."""

    def convert(first: int) -> None:
        command = ["ffmpeg", "-v", "error"]
        batch = files[first : first + together]
        for path in batch:
            command += ["-threads", "1", "-i", str(path)]
        for number in range(len(batch)):
            command += ["-map", f"{number}:a", *options, "-ar", str(RATE), "-sample_fmt", "s16"]
            command += [str(out / f"{first + number}.flac")]
        subprocess.run(command, check=True)

    begun = time.perf_counter()
    with ThreadPoolExecutor(PROCESSORS) as pool:
        list(pool.map(convert, range(0, len(files), together)))
    return time.perf_counter() - begun


def by_prepare(manifest: Path, out: Path) -> tuple[float, float]:
    """Seconds, the start of Python included, and the peak memory of all processes, MB."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(manifest), str(out)], start_new_session=True)
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, memory_of_session(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    done.set()
    watcher.join()
    if status:
        raise RuntimeError(f"prepare ended with status {status}")
    return time.perf_counter() - begun, peak


def memory_of_session(leader: int) -> float:
    """What the processes of a session hold, pages they share counted once, MB."""
    total = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                lines = (entry / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, ProcessLookupError):
            continue  # it has just ended
    return total / 1024


def listed(files: list[Path], count: int, path: Path) -> Path:
    """A manifest of `count` clips of these files."""
    rows = (
        Clip(id=f"{number:06d}", audio=str(files[number % len(files)]), captions=["a sound"]) for number in range(count)
    )
    write_manifest(rows, path)
    return path


def compare(files: list[Path], work: Path, rounds: int) -> list[dict[str, Any]]:
    """Rows of the speed."""
    seconds: dict[str, list[float]] = {"prepare": []}
    manifest = listed(files, len(files), work / "speed.jsonl")
    soxr = "--enable-libsoxr" in subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout
    resamplers = {"ffmpeg": [], "ffmpeg, soxr": ["-af", "aresample=resampler=soxr"]} if soxr else {"ffmpeg": []}
    peers = {(name, together): options for name, options in resamplers.items() for together in (1, 32)}
    for _ in range(rounds):
        out = work / "out"
        out.mkdir()
        seconds["prepare"].append(by_prepare(manifest, out)[0])
        shutil.rmtree(out)
        for (name, together), options in peers.items():
            out.mkdir()
            label = f"{name}, {together} file{'s' * (together > 1)} a process"
            seconds.setdefault(label, []).append(by_ffmpeg(files, out, together, *options))
            shutil.rmtree(out)
    speed = {name: len(files) / statistics.median(times) for name, times in seconds.items()}
    ours = speed.pop("prepare")
    return [
        {"name": f"prepare/speed beside {name}", "value": ours, "unit": "files/s", "peer": peer, "ratio": ours / peer}
        for name, peer in speed.items()
    ]


def grow(files: list[Path], work: Path, counts: list[int]) -> list[dict[str, Any]]:
    """Rows of the memory; each is compared with the one before."""
    rows: list[dict[str, Any]] = []
    for count in counts:
        seconds, peak = by_prepare(listed(files[:20], count, work / f"{count}.jsonl"), work / f"memory{count}")
        before = rows[-1]["value"] if rows else peak
        rows.append(
            {"name": f"prepare/memory/{count} clips", "value": peak, "unit": "MB", "peer": before,
             "ratio": before / peak, "clips/s": count / seconds}
        )  # fmt: skip
        shutil.rmtree(work / f"memory{count}")
    return rows


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="sounds to convert")
    parser.add_argument("--quick", action="store_true", help="100 files, one round, 1 000 and 2 000 clips")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        sys.exit("ffmpeg is not installed; it is what prepare is compared with")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        files = sounds(arguments.folder, work)[: 100 if arguments.quick else None]
        rows = compare(files, work, 1 if arguments.quick else 3)
        rows += grow(files, work, [1000, 2000] if arguments.quick else [1000, 10_000])
    table = Table("what", "atr", "peer", "unit", "ratio")
    for row in rows:
        numbers = (f"{row['value']:.1f}", f"{row['peer']:.1f}", row["unit"], f"{row['ratio']:.2f}")
        table.add_row(row["name"], *numbers)
    Console().print(table)
    if arguments.json:
        from atr.provenance import environment

        content = {"environment": environment() | {"files": len(files), "processors": PROCESSORS}, "rows": rows}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
