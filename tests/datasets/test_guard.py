"""Leaks of a real run: refused, dropped, told, ignored."""

import json
from dataclasses import replace

import pytest
import soundfile

from atr.config import compose_config
from atr.errors import CheckpointError, DataError, UsageError
from atr.experiment import train
from atr.shards.write import write_shards
from tests.conftest import make_clips, tone
from tests.datasets.test_fingerprint import bursts
from tests.pipeline.test_datamodule import add_to_tar, wav


@pytest.fixture
def leaky(tiny, tmp_path):
    """A configuration whose test set holds two clips of the training set, the files of other clips and their ids."""
    clips = make_clips(tmp_path / "more", 18)
    own = [replace(one, id=f"own{n:03d}", source=f"elsewhere{n}") for n, one in enumerate(clips[10:])]
    write_shards([*clips[:2], *own], tmp_path / "test", codec="flac")

    def compose(*overrides):
        return tiny(f"data.test=[{tmp_path / 'test'}]", "trainer.max_epochs=1", *overrides)

    return compose


def test_refuse_names_the_clips_and_the_next_step(leaky, tmp_path):
    with pytest.raises(DataError, match=r"(?s)2 of 16 .*2 by id, 2 by source.*note00 = .*leaks\.action=drop"):
        train(leaky("leaks.action=refuse", "leaks.by=[id,source]"))
    assert not (tmp_path / "run").exists()


def test_drop_takes_them_out_of_training_and_into_the_hashes(leaky, tmp_path, capsys):
    train(leaky("leaks.action=drop", "leaks.by=[id,source]"))
    said = capsys.readouterr().out
    assert "leaks: 2 clips left out, 14 to train on" in said and "14 clips for train, 10 clips for test" in said
    data = json.loads((tmp_path / "run" / "environment.json").read_text())["data"]
    assert data["train"]["clips"] == 14 and len(data["train"]["kept"]) == 64
    assert data["test"]["clips"] == 10 and "kept" not in data["test"]
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match="was trained on other shards"):
        train(leaky("leaks.action=warn", f"resume={last}", "trainer.max_epochs=2", f"run_dir={tmp_path / 'b'}"))


def test_warn_is_the_default_and_stands_in_the_report(leaky, tmp_path, capsys):
    train(leaky("trainer.limit_train_batches=1"))
    assert "leaks: 8 of 16 training clips are in" in capsys.readouterr().out
    assert "leaks: 8 of 16 training clips" in (tmp_path / "run" / "report" / "index.html").read_text()


def test_ignore_says_nothing(leaky, capsys):
    train(leaky("leaks.action=ignore", "trainer.fast_dev_run=true"))
    assert "leak" not in capsys.readouterr().out


def test_the_same_folder_to_train_and_test_is_one_line(tiny, capsys):
    train(tiny("trainer.fast_dev_run=true"))
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("leaks:")]
    assert line.endswith(f"(all 16 of {tiny.shards}/00000.tar, which is given on both sides)")
    with pytest.raises(DataError, match="leaves no clip"):
        train(tiny("leaks.action=drop"))


def test_fingerprints_find_what_has_another_name(tiny, tmp_path, capsys):
    clips = make_clips(tmp_path / "more")
    for number, one in enumerate(clips):
        soundfile.write(one.audio, bursts(number, 3.0, 16_000), 16_000)
    renamed = [replace(one, id=f"own{n:03d}", source=f"elsewhere{n}") for n, one in enumerate(clips[6:8])]
    write_shards(clips[:12], tmp_path / "train")
    write_shards(renamed, tmp_path / "test", codec="ogg")
    own = [f"data.train=[{tmp_path / 'train'}]", f"data.test=[{tmp_path / 'test'}]", "trainer.fast_dev_run=true"]
    train(tiny("leaks.by=[id,fingerprint]", *own))
    assert (tmp_path / "train" / "00000.fingerprint.npz").is_file()
    assert "leaks: 2 of 12 training clips are in" in (said := capsys.readouterr().out) and "(2 by fingerprint)" in said


def test_a_streamed_set_is_told_to_be_unchecked(leaky, capsys):
    train(leaky("data.streaming=true", "data.streaming_clips=16", "trainer.fast_dev_run=true"))
    assert "leaks: data.train is streamed and was not compared" in capsys.readouterr().out


def test_a_remote_set_is_not_fetched_for_it(leaky, monkeypatch, capsys):
    monkeypatch.setattr("atr.datasets.guard.is_remote", lambda place: True)
    train(leaky("trainer.fast_dev_run=true"))
    assert "leaks: data.train is remote and was not compared" in capsys.readouterr().out


def test_a_damaged_json_does_not_stop_the_comparison(leaky, shards, capsys):
    add_to_tar(shards / "00000.tar", [("zz.wav", wav(tone(300))), ("zz.json", b"{")])
    train(leaky("trainer.fast_dev_run=true", "bad_samples=1.0"))
    said = capsys.readouterr().out
    assert "leaks: 8 of 16 training clips" in said and "leaks: 1 clips could not be compared; the first: " in said


def test_wrong_settings(leaky):
    with pytest.raises(UsageError, match=r"leaks\.action is 'stop'; allowed: refuse, drop, warn, ignore"):
        train(leaky("leaks.action=stop"))
    with pytest.raises(UsageError, match="by 'name'; allowed: id, source, file, fingerprint"):
        train(leaky("leaks.by=[name]"))
    with pytest.raises(DataError, match=r"/nothing/list\.txt: cannot be read"):
        train(leaky("leaks.exclude_lists=/nothing/list.txt"))
    with pytest.raises(UsageError, match=r"leaks is empty; leaks\.action=ignore"):
        train(leaky("leaks=null"))


def test_one_kind_needs_no_list_and_null_is_none(leaky, capsys):
    train(leaky("leaks.by=source", "leaks.exclude_lists=null", "trainer.fast_dev_run=true"))
    assert "leaks: 2 of 16" in (said := capsys.readouterr().out) and "(2 by source)" in said


def test_drop_that_empties_a_corpus_is_refused(leaky, tmp_path):
    own = make_clips(tmp_path / "b")
    write_shards(make_clips(tmp_path / "s", 2), tmp_path / "a")
    write_shards([replace(one, id=f"b{one.id}", source=f"b{one.source}") for one in own], tmp_path / "b")
    corpora = f"data.train={{a: [{tmp_path / 'a'}], b: [{tmp_path / 'b'}]}}"
    with pytest.raises(DataError, match=r"data\.train\.a has no clip left: .*leaks\.action=drop"):
        train(leaky("leaks.action=drop", "leaks.by=[id]", corpora, "data.mixture.weights={a: 1, b: 1}"))


def test_the_demo_has_none(tmp_path):
    """Its folds share no recording's number; the sound of two recordings (151080, 151085) is another matter."""
    from atr.datasets.guard import guard
    from atr.experiment import build, build_data

    cfg = compose_config([f"run_dir={tmp_path}"])
    assert guard(build_data(cfg, build(cfg.model)), **cfg.leaks) == []
