"""Rows with a cell for each run, against what stands in the results."""

import numpy as np

from atr.evaluation.runs import Run
from atr.evaluation.side_by_side import exceeding, protocol_lines, retrieval_rows, tables
from tests.evaluation.made import measured, result

LOW, HIGH = np.zeros(40), np.ones(40)


def runs(*results):
    from pathlib import Path

    return [Run(Path(letter), letter, letter, one) for letter, one in zip("ABC", results, strict=False)]


def test_each_run_has_its_cell_and_its_difference_to_the_first():
    one, two, three = result(LOW), result(HIGH), result(LOW)
    two.rows["all"].append(measured("top5", HIGH))
    two.rows["fold1"] = [measured("accuracy", HIGH[:5])]
    (table,) = tables(runs([one], [two], [three]))
    accuracy, top5 = table.pooled
    assert [cell.value for cell in accuracy.cells] == [0.0, 1.0, 0.0] and accuracy.n == [40]
    assert accuracy.differences[0] is None
    assert [(d.a, d.b, d.exceeds_noise) for d in accuracy.differences[1:]] == [(0.0, 1.0, True), (0.0, 0.0, False)]
    assert [cell and cell.value for cell in top5.cells] == [None, 1.0, None] and top5.differences == [None] * 3
    assert list(table.folds) == ["fold1"] and table.folds["fold1"][0].n == [5]
    assert exceeding([table]) == (1, 2) and table.headlines == [accuracy]


def test_other_clips_have_another_n():
    (table,) = tables(runs([result(LOW)], [result(HIGH[:30], manifest_sha256="cc")]))
    assert table.pooled[0].n == [30, 40] and not table.pooled[0].differences[1].paired
    assert table.changed == [[], ["manifest", "clips"]]


def test_the_fields_that_differ_are_named():
    (table,) = tables(runs([result(LOW)], [result(LOW, windows="first", checkpoint="b.ckpt")]))
    assert table.changed == [[], ["windows"]]
    lines = {line.name: line for line in protocol_lines(table)}
    assert not lines["windows"].same and lines["windows"].values == ["mean", "first"]
    assert not lines["checkpoint"].same and lines["templates"].same and lines["crop seed"].values == ["–", "–"]
    assert "task" not in lines and {"manifest sha256", "label rule", "ties", "settings", "versions"} <= set(lines)


def test_a_protocol_is_written_out_in_full():
    versions = {"git": "abc+", "packages": {"torch": "2.6", "numpy": None}}
    (table,) = tables(runs([result(LOW, versions=versions, templates=("a {label}", "b {label}"))]))
    lines = {line.name: line.values[0] for line in protocol_lines(table)}
    assert (
        lines["versions"] == "git: abc+\npackages: torch: 2.6\n  numpy: –"
        and lines["templates"] == "a {label}\nb {label}"
    )


def test_a_result_that_the_first_run_lacks_is_compared_with_the_next():
    only_a, both = tables(runs([result(LOW, "probe")], [result(LOW)], [result(HIGH)]))
    assert only_a.task == "probe" and only_a.results[1:] == [None, None]
    assert both.pooled[0].cells[0] is None and both.pooled[0].differences[2].a == 0.0
    assert both.remarks == ["A has no such result: differences are to B"]


def test_numbers_that_cannot_be_compared_are_said():
    two = result(HIGH)
    two.rows["all"][0].replicates[:] = np.nan
    (table,) = tables(runs([result(LOW)], [two]))
    assert table.pooled[0].differences == [None, None] and table.pooled[0].cells[1].value == 1.0
    assert table.remarks == ["B is not compared with A: accuracy has no replicates; measure it again with `atr eval`"]


def test_retrieval_is_printed_by_direction():
    one, two = result(LOW, "retrieval", "t2a/R@1"), result(HIGH, "retrieval", "t2a/R@1")
    one.rows["all"] += [measured("a2t/R@1", HIGH), measured("a2t/mAP@10", HIGH)]
    found = runs([one], [two])
    (table,) = tables(found)
    rows = retrieval_rows(table, found)
    assert rows.columns == ["R@1", "mAP@10"]
    assert [(row.run.letter, row.direction, row.values) for row in rows.rows] == [
        ("A", "text → audio", [0.0, None]), ("A", "audio → text", [1.0, 1.0]), ("B", "text → audio", [1.0, None])
    ]  # fmt: skip
    assert retrieval_rows(tables(runs([result(LOW)]))[0], found[:1]).rows == []
