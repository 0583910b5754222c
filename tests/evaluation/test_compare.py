"""Differences of results: none where nothing differs, beyond the noise where something does, paired on equal clips."""

import dataclasses

import numpy as np
import pytest

from atr.errors import DataError
from atr.evaluation.bootstrap import DRAWS
from atr.evaluation.compare import by_task, compare, differences, print_differences
from atr.evaluation.record import write_results
from tests.evaluation.made import result

CLIPS = 60
RIGHT = (np.random.default_rng(1).random(CLIPS) < 0.5).astype(float)
FIVE_MORE = np.where(np.cumsum(RIGHT == 0) <= 5, 1.0, RIGHT)  # the same and five clips more
FIVE_MORE[RIGHT == 1] = 1.0


def write(tmp_path, name, *results):
    write_results(tmp_path / name, results)
    return tmp_path / name


def test_equal_results_differ_by_exactly_nothing(tmp_path):
    one, two = write(tmp_path, "a.json", result(RIGHT)), write(tmp_path, "b.json", result(RIGHT))
    (found,) = compare(one, two)
    assert (found.b - found.a, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert found.paired and found.protocol == "" and not found.exceeds_noise


def test_five_clips_more_exceed_the_noise_of_sixty_only_because_they_are_paired():
    paired = differences(result(RIGHT), result(FIVE_MORE))[0]
    assert FIVE_MORE.sum() == RIGHT.sum() + 5
    assert paired.paired and paired.exceeds_noise and paired.low > 0 and paired.p < 0.05
    other = differences(result(RIGHT), result(FIVE_MORE, manifest_sha256="cc"))[0]
    assert not other.paired and not other.exceeds_noise and "manifest_sha256: 'aa' | 'cc'" in other.protocol
    spread = np.sqrt(2 * 0.25 / CLIPS) * 2 * 1.96  # of the difference of two independent shares near 1/2
    assert other.high - other.low == pytest.approx(spread, rel=0.2)


def test_a_difference_downwards_exceeds_it_too():
    assert differences(result(FIVE_MORE), result(RIGHT))[0].high < 0


@pytest.mark.parametrize(
    "field, value", [("windows", "first"), ("templates", ("a",)), ("settings", {"k": 1}), ("ties", "")]
)
def test_other_fields_of_the_protocol_are_named_and_leave_the_pairs(field, value):
    found = differences(result(RIGHT), result(RIGHT, **{field: value}))[0]
    assert found.paired and found.protocol.startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["checkpoint", "checkpoint_sha256"])
def test_what_is_compared_may_differ(field):
    assert differences(result(RIGHT), result(RIGHT, **{field: "other"}))[0].protocol == ""


def test_two_results_of_a_task_on_a_set_are_kept_apart():
    one, two = result(RIGHT), result(FIVE_MORE)
    keyed = by_task([one, result(RIGHT, "probe"), two])
    assert list(keyed) == [("zero-shot", "notes", 0), ("probe", "notes", 0), ("zero-shot", "notes", 1)]
    assert keyed["zero-shot", "notes", 1] is two


def test_resamples_without_a_number_are_left_out():
    one, two = result(RIGHT), result(FIVE_MORE)
    one.rows["all"][0].replicates[::2] = np.nan
    found = differences(one, two)[0]
    assert found.exceeds_noise and np.isfinite([found.low, found.high]).all()
    one.rows["all"][0].replicates[:] = np.nan
    with pytest.raises(DataError, match=r"accuracy has no replicates; measure it again with `atr eval`"):
        differences(one, two)


def test_nothing_in_common_is_an_error_that_names_what_there_is(tmp_path):
    one, two = write(tmp_path, "a.json", result(RIGHT)), write(tmp_path, "b.json", result(RIGHT, dataset="other"))
    with pytest.raises(DataError, match=r"a\.json has zero-shot on notes; .*b\.json has zero-shot on other: there is"):
        compare(one, two)


def test_the_table_says_which_differences_count(tmp_path, capsys, monkeypatch):
    found = [
        *differences(result(RIGHT), result(FIVE_MORE)),
        *differences(result(RIGHT, "probe"), result(RIGHT, "probe", windows="first")),
    ]
    print_differences(found, tmp_path / "a.json", tmp_path / "b.json")
    text = capsys.readouterr().out
    assert "higher" in text and "noise" in text and "1 of 2 differences exceed" in text
    assert "not the same protocol: probe notes: windows: 'mean' | 'first'" in text


def test_the_smallest_p_is_one_resample():
    assert differences(result(np.zeros(CLIPS)), result(np.ones(CLIPS)))[0].p == pytest.approx(2 / DRAWS)
    assert dataclasses.replace(differences(result(RIGHT), result(RIGHT))[0], low=-1.0, high=-0.1).exceeds_noise
