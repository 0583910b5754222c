"""Results files: what was written comes back, and nothing else is taken for one."""

import dataclasses
import json

import numpy as np
import pytest

from atr.errors import DataError
from atr.evaluation.bootstrap import DRAWS
from atr.evaluation.record import FILE, json_rows, read_results, to_json, write_results
from tests.evaluation.made import measured, result

VALUES = np.random.default_rng(0).random(30)


def test_what_was_written_comes_back(tmp_path):
    one = result(VALUES, settings={"shots": 5}, versions={"packages": {"torch": "2.6"}}, crop_seed=3)
    one.rows["fold1"] = [measured("accuracy", VALUES[:10]), measured("top5", VALUES[:10])]
    one.shown, one.remarks = {"labels": ["ä", "b"], "confusion": [[1, 0], [2, 3]]}, ["a remark"]
    write_results(tmp_path / FILE, [one, result(VALUES, "retrieval")])
    back, other = read_results(tmp_path / FILE)
    assert back.protocol == one.protocol and back.shown == one.shown and back.remarks == one.remarks
    assert list(back.rows) == ["all", "fold1"] and other.protocol.task == "retrieval"
    for fold, rows in one.rows.items():
        for before, after in zip(rows, back.rows[fold], strict=True):
            assert dataclasses.replace(before, replicates=0) == dataclasses.replace(after, replicates=0)
            np.testing.assert_allclose(after.replicates, before.replicates, rtol=1e-5)  # six digits are kept
    assert back.value("top5", "fold1") == one.rows["fold1"][1].value
    with pytest.raises(KeyError, match="fold1 mAP"):
        back.value("mAP", "fold1")


def test_the_same_results_give_the_same_bytes_twice(tmp_path):
    write_results(tmp_path / FILE, [result(VALUES)])
    first = (tmp_path / FILE).read_bytes()
    write_results(tmp_path / FILE, read_results(tmp_path / FILE))
    assert (tmp_path / FILE).read_bytes() == first and [one.name for one in tmp_path.iterdir()] == [FILE]


def test_each_row_stands_for_itself():
    (row,) = json_rows(result(VALUES))
    assert {"task", "dataset", "fold", "metric", "value", "low", "high", "n", "windows", "ties", "checkpoint"} <= set(
        row
    )
    assert row["n"] == 30 and row["value"] == VALUES.mean() and len(row["replicates"]) == DRAWS


@pytest.mark.parametrize("field", ["value", "low", "high"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_number_that_is_none_is_refused(tmp_path, field, number):
    one = result(VALUES)
    one.rows["all"][0] = dataclasses.replace(one.rows["all"][0], **{field: number})
    with pytest.raises(DataError, match=r"zero-shot on notes: accuracy of all is .* finite numbers only"):
        write_results(tmp_path / FILE, [one])
    assert not list(tmp_path.iterdir())


def test_a_resample_without_a_number_is_kept_as_such(tmp_path):
    one = result(VALUES)
    one.rows["all"][0].replicates[1] = np.nan
    write_results(tmp_path / FILE, [one])
    after = read_results(tmp_path / FILE)[0].rows["all"][0].replicates
    assert np.isnan(after[1]) and np.isnan(after).sum() == 1 and "NaN" not in (tmp_path / FILE).read_text()


def test_a_result_without_numbers_is_refused():
    one = result(VALUES)
    one.rows = {"all": []}
    with pytest.raises(DataError, match="zero-shot on notes has no numbers"):
        to_json([one])


def damaged():
    whole = json.loads(to_json([result(VALUES)]))
    row = whole["results"][0]["rows"][0]

    def changed(**values):
        return json.dumps({"format": 1, "results": [whole["results"][0] | {"rows": [row | values]}]})

    yield to_json([result(VALUES)])[:-40], "JSONDecodeError"
    yield json.dumps([whole]), "TypeError"
    yield json.dumps(whole | {"format": 2}), "format 2; this version of atr reads 1"
    yield json.dumps({"loss": 1.0}), "KeyError: 'format'"
    yield changed(value="high"), "could not convert"
    yield changed(task=3), "task is 3, no text"
    yield changed(replicates=[[1.0]]), "replicates of shape"
    yield changed(low=float("nan")), "NaN is no number"
    yield changed(value=0).replace('"value": 0', '"value": 1e999'), "accuracy is inf"
    yield json.dumps(whole | {"results": [{"rows": [], "shown": {}, "remarks": []}]}), "IndexError"


@pytest.mark.parametrize("text, reason", list(damaged()))
def test_another_or_a_damaged_file_is_no_results_file(tmp_path, text, reason):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match=f"holds no results of `atr eval`.*{reason}.*make it with --out or --json"):
        read_results(tmp_path / FILE)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"results\.json is not there; `atr eval … --out FOLDER` writes"):
        read_results(tmp_path / FILE)
    with pytest.raises(DataError, match="cannot be written"):
        write_results(tmp_path / "no folder" / FILE, [result(VALUES)])
