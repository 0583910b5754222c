"""What is read of a run, what may be missing, and what is no run."""

import shutil

import pytest

from atr.errors import DataError, UsageError
from atr.evaluation.runs import read_curves, read_runs
from tests.evaluation.made import make_run


@pytest.fixture
def run(tmp_path, shards):
    return make_run(tmp_path / "demo" / "first", shards)


def test_a_whole_run_misses_nothing(run):
    (one,) = read_runs([run])
    assert (one.letter, one.name, one.missing) == ("A", "demo/first", [])
    assert (
        [found.protocol.task for found in one.results]
        == ["zero-shot", "retrieval"]
        == [found.protocol.task for found in one.of("notes")]
    )
    assert one.of("other") == [] and one.saved("other") is None and len(one.saved("notes").ids) == 16
    assert one.curves == {"train/loss": ([4, 9], [3.0, 2.5]), "train/logit_scale": ([4], [14.2])}
    assert list(one.texts) == ["config.yaml", "environment.json"]


def test_the_results_file_of_a_run_stands_for_the_run(run):
    one, same = read_runs([run / "results.json", run])
    for name in ("path", "name", "embeddings", "curves", "texts", "missing"):
        assert getattr(one, name) == getattr(same, name)
    assert len(one.results) == 2 and (one.letter, same.letter) == ("A", "B")


def test_a_results_file_alone_gives_numbers_only(run, tmp_path):
    shutil.copy(run / "results.json", tmp_path / "numbers.json")
    (one,) = read_runs([tmp_path / "numbers.json"])
    assert len(one.results) == 2 and not one.embeddings and not one.curves and "numbers only" in one.missing[0]


def test_what_is_missing_is_said(run, tmp_path):
    (run / "metrics.csv").rename(tmp_path / "metrics.csv")
    shutil.rmtree(run / "embeddings")
    (one,) = read_runs([run])
    assert one.missing == [
        "no embeddings/*.npz for notes: no map, no similarities, no sound of it",
        "no metrics.csv: no curves of training",
    ]
    (tmp_path / "metrics.csv").rename(run / "metrics.csv")
    (run / "results.json").unlink()
    (one,) = read_runs([run])
    assert (
        one.results == [] and one.curves and "the run was not evaluated (yet); `atr eval` does that" in one.missing[0]
    )


def test_what_is_no_run_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(
        DataError, match=r"holds neither results\.json nor metrics\.csv, .* `atr eval retrieval CHECKPOINT --out"
    ):
        read_runs([tmp_path])
    with pytest.raises(DataError, match="nowhere is not there; name the folder of a run"):
        read_runs([tmp_path / "nowhere"])
    (tmp_path / "numbers.json").write_text("{}")
    with pytest.raises(DataError, match=r"numbers\.json holds no results of `atr eval`"):
        read_runs([tmp_path / "numbers.json"])


def test_the_number_of_runs_is_limited(tmp_path):
    for count in (0, 11):
        with pytest.raises(UsageError, match=f"{count} runs are given; a page takes 1 to 10"):
            read_runs([tmp_path] * count)


@pytest.mark.parametrize("text", ["step,train/loss\n1,high\n", "epoch,train/loss\n0,1.0\n", "step,train/loss\n,1.0\n"])
def test_damaged_curves_are_named(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.csv is no table of curves"):
        read_curves(tmp_path / "metrics.csv")
