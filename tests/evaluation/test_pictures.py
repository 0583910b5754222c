"""Pictures: they are PNGs, and what is painted is what was given."""

import dataclasses
import io

import matplotlib.image
import numpy as np
import pytest

from atr.evaluation import pictures
from atr.evaluation.plane import Plane
from tests.evaluation.made import saved


@pytest.fixture
def painted(monkeypatch):
    """The axes of each picture that is drawn."""
    found = []

    def draw(width, height, paint):
        def watched(figure, axes):
            paint(figure, axes)
            found.append(axes)

        return original(width, height, watched)

    original = pictures.draw
    monkeypatch.setattr(pictures, "draw", draw)
    return found


def size(png):
    height, width, _ = matplotlib.image.imread(io.BytesIO(png), format="png").shape
    return width, height


def names(ticks):
    return [one.get_text() for one in ticks]


def test_curves_of_several_runs_are_lines_with_a_legend(painted):
    lines = {"A": ([1, 2, 3], [3.0, 2.0, 1.0]), "B": ([5], [2.5])}
    png = pictures.curves(lines, {"A": "#ff0000", "B": "#00ff00"}, "training loss")
    (axes,) = painted
    assert size(png)[0] == pytest.approx(517, abs=2) and axes.get_title() == "training loss"
    for line, (steps, values) in zip(axes.lines, lines.values(), strict=True):
        assert line.get_xdata().tolist() == steps and line.get_ydata().tolist() == values
    assert [line.get_color() for line in axes.lines] == ["#ff0000", "#00ff00"]
    assert [line.get_marker() for line in axes.lines] == ["None", "o"]  # a point alone would not be seen as a line
    assert names(axes.get_legend().get_texts()) == ["A", "B"]


def test_a_single_run_needs_no_legend(painted):
    pictures.curves({"A": ([1, 2], [3.0, np.nan])}, {"A": "#ff0000"}, "loss")
    assert painted[0].get_legend() is None


def test_the_confusion_matrix_has_true_labels_in_rows(painted):
    counts = np.array([[3, 1], [0, 4]])
    pictures.confusion(["dog_bark", "rain"], counts)
    (axes,) = painted
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0.0, 1.0]])
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "3", (1, 0): "1", (1, 1): "4"}
    assert names(axes.get_yticklabels()) == names(axes.get_xticklabels()) == ["dog bark", "rain"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answer", "true label")


def test_a_matrix_of_many_labels_stays_small(painted):
    png = pictures.confusion([f"label {number}" for number in range(527)], np.eye(527, dtype=np.int64))
    assert max(size(png)) < 900 and len(png) < 100_000
    assert not painted[0].texts and "label 0" not in names(painted[0].get_yticklabels())


def test_the_similarities_are_cosines_in_the_order_of_labels(painted):
    one = saved()
    order = [7, 2, 9, 0, 11, 4, 1, 10, 3, 8, 5, 6]
    mixed = dataclasses.replace(one, audio=one.audio[order], labels=[one.labels[row] for row in order])
    pictures.similarity(mixed)
    grid = painted[0].images[0].get_array()
    rows = sorted(range(12), key=lambda row: mixed.labels[row])
    distinct = [0, 1, *range(2, 24, 2)]  # the caption that stands on all clips comes once
    columns = sorted(distinct, key=lambda column: mixed.labels[column // 2])
    np.testing.assert_allclose(grid, mixed.audio[rows] @ mixed.text[columns].T, atol=1e-6)
    assert names(painted[0].get_yticklabels()) == ["high note", "low note"]


def test_the_similarities_of_a_large_set_are_some_of_it(painted):
    png = pictures.similarity(saved(clips=1_999))
    assert max(painted[0].images[0].get_array().shape) <= 200 and len(png) < 400_000


def test_the_map_has_a_colour_for_each_label_that_is_shown(painted):
    plane = Plane(np.arange(10.0).reshape(5, 2), np.arange(5), np.array([[9.0, 9.0]]), "made")
    pictures.scatter(plane, ["a", "b", "a", "", "rare"], ["b"], ["a", "b"])
    others, a, b, star = painted[0].collections
    assert others.get_offsets().tolist() == [[6, 7], [8, 9]] and others.get_label() == "other clips"
    assert a.get_offsets().tolist() == [[0, 1], [4, 5]] and b.get_offsets().tolist() == [[2, 3]]
    assert star.get_offsets().tolist() == [[9, 9]]
    assert (star.get_facecolor() == b.get_facecolor()).all() and (a.get_facecolor() != b.get_facecolor()).any()


def test_the_most_frequent_labels_get_a_colour():
    labels = [f"{number:02d}" for number in range(30) for _ in range(30 - number)] + [""] * 99
    assert pictures.coloured(labels) == [f"{number:02d}" for number in range(20)]
    assert pictures.coloured(["", ""]) == []


def test_names_are_no_formulas_and_not_too_long(painted):
    assert pictures.plain("dog_bark") == "dog bark" and pictures.plain("$x_1$") == r"\$x 1\$"
    assert pictures.plain("a" * 40) == "a" * 23 + "…"
    pictures.confusion(["$^{", "$$"], np.eye(2, dtype=np.int64))  # matplotlib would refuse such a formula
