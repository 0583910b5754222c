"""Pictures of a report, as PNG bytes."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from atr.evaluation.zero_shot import ZeroShot
from atr.pipeline.text import label_text
from atr.types import Encoded

SHOWN = 200  # clips and captions in the similarity picture


def draw(width: float, height: float, paint: Callable[[Figure, Axes], None]) -> bytes:
    """Lets `paint` draw on a figure of `width` x `height` inches."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    paint(figure, figure.subplots())
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def read_curve(metrics_csv: Path, column: str) -> tuple[list[int], list[float]]:
    """Steps and values of one column of Lightning's `metrics.csv`; empty when it is not there."""
    if not metrics_csv.is_file():
        return [], []
    with metrics_csv.open() as file:
        rows = [(int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row.get(column)]
    return [step for step, _ in rows], [value for _, value in rows]


def curve(metrics_csv: Path, column: str, title: str) -> bytes | None:
    """One training curve, or None when nothing was logged under that name."""
    steps, values = read_curve(metrics_csv, column)
    if not steps:
        return None

    def paint(figure: Figure, axes: Axes) -> None:
        axes.plot(steps, values, color="#1f5fa8", linewidth=1.2)
        axes.set_xlabel("step")
        axes.set_title(title)
        axes.grid(alpha=0.3)

    return draw(4.7, 2.9, paint)


def confusion(result: ZeroShot) -> bytes:
    """Rows: true label; columns: answer; numbers: clips."""
    size = min(14.0, 2.5 + 0.45 * len(result.labels))

    def paint(figure: Figure, axes: Axes) -> None:
        counts = result.confusion.numpy()
        axes.imshow(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
        names = [label_text(label) for label in result.labels]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("answer")
        axes.set_ylabel("true label")
        if len(names) <= 30:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    dark = count > counts[row].sum() / 2
                    axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")

    return draw(size + 0.8, size, paint)


def similarity(encoded: Encoded) -> bytes:
    """Cosine of clips (rows) and distinct captions (columns), both grouped by label."""
    labels = [" ".join(sample.labels) for sample in encoded.samples]
    rows = sorted(range(len(labels)), key=lambda row: labels[row])
    rows = rows[:: max(1, len(rows) // SHOWN)]
    first: dict[str, int] = {}  # caption -> where it first stands
    captions = [caption for sample in encoded.samples for caption in sample.captions]
    for column, caption in enumerate(captions):
        first.setdefault(caption, column)
    columns = sorted(first.values(), key=lambda column: labels[int(encoded.clip_of_text[column])])
    columns = columns[:: max(1, len(columns) // SHOWN)]
    cosine: Tensor = encoded.audio[rows] @ encoded.text[columns].T

    def paint(figure: Figure, axes: Axes) -> None:
        picture = axes.imshow(cosine.numpy(), cmap="magma", aspect="auto", interpolation="nearest")
        figure.colorbar(picture, label="cosine")
        _name_groups(axes.set_yticks, [labels[row] for row in rows])
        _name_groups(axes.set_xticks, [labels[int(encoded.clip_of_text[c])] for c in columns], rotation=45, ha="right")
        axes.set_xlabel("captions")
        axes.set_ylabel("clips")

    return draw(7.6, 5.6, paint)


def _name_groups(set_ticks: Callable[..., object], names: list[str], **style: object) -> None:
    """One tick in the middle of each run of equal names, when there are few enough."""
    groups = sorted(set(names))
    if groups == [""] or len(groups) > 40:
        set_ticks([])
        return
    places = np.array(names)
    middles = [float(np.flatnonzero(places == group).mean()) for group in groups]
    set_ticks(middles, [label_text(group) for group in groups], **style)
