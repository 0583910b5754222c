"""The curves of a run that goes on begin with those of the run it goes on with."""

import csv
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger

from atr.checkpoint import read_checkpoint

Row = dict[str, float]


def curves_until(checkpoint: Path) -> list[Row]:
    """The rows of its run's `metrics.csv` up to a checkpoint; none where there is no such file.

    What was logged after it will be trained, and logged, again.
    """
    metrics_csv, step = checkpoint.parent.parent / "metrics.csv", read_checkpoint(checkpoint).step
    if not metrics_csv.is_file():
        return []
    with metrics_csv.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if name and value} for row in csv.DictReader(file)]
    return [row for row in rows if row.get("step", step) < step]


def carry_on(logger: CSVLogger, rows: list[Row]) -> None:
    """Begins a logger's file, which Lightning would begin empty, with `rows`; on the first rank."""
    writer = logger.experiment
    for row in rows:
        writer.log_metrics({name: value for name, value in row.items() if name != "step"}, int(row["step"]))
    writer.save()
