"""`atr doctor`: real times of real stages; a stage made slow is the one it names."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atr import doctor
from atr.doctor import LEARNING, LOADING, diagnose, print_diagnosis
from atr.errors import DataError, UsageError
from tests.conftest import TINY
from tests.pipeline.test_datamodule import add_to_tar


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(doctor, "LOADER_SECONDS", 0.5)


def slow_transform(samples, sample_rate):
    time.sleep(0.05)
    return samples


def test_it_measures_every_stage_and_the_loader(tiny, capsys):
    found = diagnose(tiny("masking=words"))
    assert list(found.stages) == [*LOADING, *LEARNING] and all(value > 0 for value in found.stages.values())
    assert found.loader > 10 and found.model > 1 and found.batch == 8 and found.configured == 0
    assert found.bottleneck in LOADING + LEARNING
    print_diagnosis(found)
    said = capsys.readouterr().out
    assert f"data.num_workers={found.workers} (now 0)" in said and "decode" in said


def test_it_names_the_stage_that_is_slow_and_asks_for_more_workers(tiny, monkeypatch):
    monkeypatch.setattr(doctor, "available_processors", lambda: 4)
    built = doctor.build_data

    def slowed(cfg, model):
        data = built(cfg, model)
        data.training.transform = slow_transform
        return data

    monkeypatch.setattr(doctor, "build_data", slowed)
    found = diagnose(tiny("model.audio.depths=[1]", "model.audio.heads=[1]"))
    assert found.stages["augment"] > 50 and found.stages["augment"] == max(found.stages.values())
    if sum(found.stages[name] for name in LEARNING) < 50 / 3:  # three workers cannot keep up
        assert found.bottleneck == "augment" and "cheaper augment" in found.advice
    assert found.workers > 1
    assert found.loader < 20 * (found.workers + 1)


def test_bad_clips_are_passed_over(tiny):
    add_to_tar(tiny.shards / "00000.tar", [("noise.wav", b"no sound"), ("noise.json", b'{"text": ["x"]}')])
    assert diagnose(tiny()).loader > 10


def test_it_says_what_it_cannot_measure(tiny, tmp_path):
    with pytest.raises(UsageError, match=r"data\.streaming=true cannot be taken apart"):
        diagnose(tiny("data.streaming=true", "data.streaming_clips=8"))
    with pytest.raises(DataError, match="does not exist"):
        diagnose(tiny(f"data.train=[{tmp_path / 'nowhere'}]"))


def test_the_verb_prints_json(shards):
    overrides = [*TINY, f"data.train=[{shards}]", "data.test=[]", "data.batch_size=8", "data.num_workers=0"]
    done = subprocess.run(
        [str(Path(sys.executable).parent / "atr"), "doctor", "--json", *overrides],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stages"]["decode"] > 0
