"""Pictures of a report, as PNG bytes."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atr.evaluation.plane import Plane
from atr.evaluation.runs import Curve
from atr.evaluation.saved import SavedSet
from atr.pipeline.text import label_text

SHOWN = 200  # clips and captions in the similarity picture
NAMED = 60  # labels of a confusion matrix, whose names still fit beside it
COUNTED = 30  # labels whose counts still fit into the cells
COLOURED = 20  # labels with a colour of their own in the plane
LEGEND_COLUMNS = 3
MANY = 500  # clips of the plane, from which on their dots are smaller
LONGEST = 24  # letters of a name
RUN_COLOURS = (
    "#1f5fa8", "#d95f02", "#1b8a5a", "#b3266b", "#7a5cc4", "#8c6d1f", "#3a8fb7", "#c44536", "#5f6b76", "#6aa121",
)  # fmt: skip
_GREY = "#b8c0c8"


def draw(width: float, height: float, paint: Callable[[Figure, Axes], None]) -> bytes:
    """Lets `paint` draw on a figure of `width` x `height` inches."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    paint(figure, figure.subplots())
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def plain(name: str) -> str:
    """A label as a picture shows it: without underscores, not too long, and no formula."""
    text = label_text(name)
    return (text if len(text) <= LONGEST else text[: LONGEST - 1] + "…").replace("$", r"\$")


def curves(lines: Mapping[str, Curve], colours: Mapping[str, str], title: str) -> bytes:
    """One column of several runs.

    Args:
        lines: by the run's name; a column of a single point is drawn as a dot.
        colours: of the runs.
    """

    def paint(figure: Figure, axes: Axes) -> None:
        for name, (steps, values) in lines.items():
            marker = "o" if len(steps) == 1 else None
            axes.plot(steps, values, color=colours[name], linewidth=1.2, marker=marker, label=plain(name))
        axes.set_xlabel("step")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        if len(colours) > 1:
            axes.legend()

    return draw(4.7, 2.9, paint)


def confusion(labels: Sequence[str], counts: np.ndarray) -> bytes:
    """Rows: true label; columns: answer; numbers: clips; colour: share of the row.

    Args:
        counts: int64 `(C, C)`.
    """
    size = min(14.0, 1.8 + 0.36 * len(labels)) if len(labels) <= NAMED else 6.5

    def paint(figure: Figure, axes: Axes) -> None:
        axes.imshow(
            counts / np.maximum(1, counts.sum(axis=1, keepdims=True)),
            cmap="Blues",
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        if len(labels) <= NAMED:
            names = [plain(label) for label in labels]
            axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("answer")
        axes.set_ylabel("true label")
        if len(labels) <= COUNTED:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    dark = count > counts[row].sum() / 2
                    axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")

    return draw(size + 0.8, size, paint)


def similarity(saved: SavedSet) -> bytes:
    """Cosine of clips (rows) and distinct captions (columns), grouped by label; some of them where there are many."""
    labels = [" ".join(one) for one in saved.labels]
    rows = sorted(range(len(labels)), key=lambda row: labels[row])
    rows = rows[:: -(-len(rows) // SHOWN)]
    first: dict[str, int] = {}  # caption -> where it first stands
    for column, caption in enumerate(saved.captions):
        first.setdefault(caption, column)
    columns = sorted(first.values(), key=lambda column: labels[int(saved.clip_of_text[column])])
    columns = columns[:: -(-len(columns) // SHOWN)]
    cosine = saved.audio[rows] @ saved.text[columns].T

    def paint(figure: Figure, axes: Axes) -> None:
        picture = axes.imshow(cosine, cmap="magma", aspect="auto", interpolation="nearest")
        figure.colorbar(picture, label="cosine")
        _name_groups(axes.set_yticks, [labels[row] for row in rows])
        _name_groups(axes.set_xticks, [labels[int(saved.clip_of_text[c])] for c in columns], rotation=45, ha="right")
        axes.set_xlabel("captions")
        axes.set_ylabel("clips")

    return draw(6.2, 4.8, paint)


def _name_groups(set_ticks: Callable[..., object], names: list[str], **style: object) -> None:
    """One tick in the middle of each run of equal names, when there are few enough."""
    groups = sorted(set(names))
    if groups == [""] or len(groups) > 40:
        set_ticks([])
        return
    places = np.array(names)
    middles = [float(np.flatnonzero(places == group).mean()) for group in groups]
    set_ticks(middles, [plain(group) for group in groups], **style)


def scatter(plane: Plane, labels: Sequence[str], text_labels: Sequence[str], shown: Sequence[str]) -> bytes:
    """Clips as dots and texts as stars.

    Args:
        labels: of the n clips of the plane; empty for those that have none or several.
        text_labels: of its m texts.
        shown: the labels that get a colour, at most `COLOURED`.
    """
    palette = matplotlib.colormaps["tab10" if len(shown) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    colour = dict(zip(shown, palette, strict=False))
    names = np.array([label if label in colour else "" for label in labels], np.str_)
    size = 14 if len(labels) > MANY else 28

    def paint(figure: Figure, axes: Axes) -> None:
        for label in ["", *shown]:
            x, y = plane.clips[names == label].T
            if len(x):
                name = plain(label) if label else "other clips"
                axes.scatter(x, y, s=size, color=colour.get(label, _GREY), linewidths=0, label=name)
        for (x, y), label in zip(plane.texts, text_labels, strict=True):
            axes.scatter(x, y, s=110, marker="*", color=colour[label], edgecolors="black", linewidths=0.8)
        axes.set_xticks([])
        axes.set_yticks([])
        if shown:
            figure.legend(loc="outside lower left", ncols=LEGEND_COLUMNS, fontsize=8, frameon=False)

    return draw(5.4, 5.0 + 0.19 * -(-len(shown) // LEGEND_COLUMNS), paint)


def coloured(labels: Sequence[str]) -> list[str]:
    """The labels that get a colour: the most frequent ones, in alphabetical order."""
    return sorted(label for label, _ in Counter(label for label in labels if label).most_common(COLOURED))
