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


def slowed(monkeypatch, **changes):
    """Makes a stage of the data slow after it was built."""
    built = doctor.build_data

    def build(cfg, model):
        data = built(cfg, model)
        for name, value in changes.items():
            setattr(data.training, name, value)
        return data

    monkeypatch.setattr(doctor, "build_data", build)


def test_it_names_the_stage_that_is_slow_and_asks_for_more_workers(tiny, monkeypatch):
    monkeypatch.setattr(doctor, "available_processors", lambda: 4)
    monkeypatch.setattr(doctor, "step_stages", lambda *_: {"transfer": 0.01, "step": 1.0})
    slowed(monkeypatch, transform=slow_transform)
    found = diagnose(tiny())
    assert 50 < found.stages["augment"] < 100 and found.workers == 3
    assert found.bottleneck == "augment" and "cheaper augment" in found.advice
    assert found.loader < 20 * 3 + 5


def test_what_the_loader_delivers_decides_and_not_the_sum_of_its_stages(tiny, monkeypatch):
    monkeypatch.setattr(doctor, "step_stages", lambda *_: {"transfer": 0.1, "step": 100.0})
    assert diagnose(tiny()).bottleneck == "step"
    monkeypatch.setattr(doctor, "loader_speed", lambda *_: 1.0)
    assert diagnose(tiny()).bottleneck in LOADING


def test_a_partner_of_pair_mixing_counts(tiny, monkeypatch):
    plain = diagnose(tiny()).stages["decode"]
    assert diagnose(tiny("augment=strong", "augment.mix.probability=1")).stages["decode"] > 1.4 * plain


def test_several_devices_share_batch_and_processors(tiny, monkeypatch):
    monkeypatch.setattr(doctor, "available_processors", lambda: 8)
    monkeypatch.setattr(doctor, "step_stages", lambda *_: {"transfer": 0.01, "step": 0.01})
    found = diagnose(tiny("trainer.devices=4"))
    assert (found.devices, found.batch, found.workers) == (4, 2, 1)


def test_bad_clips_are_passed_over(tiny):
    add_to_tar(tiny.shards / "00000.tar", [("noise.wav", b"no sound"), ("noise.json", b'{"text": ["x"]}')])
    assert diagnose(tiny()).loader > 10


def test_it_says_what_it_cannot_measure(tiny, tmp_path):
    with pytest.raises(UsageError, match=r"data\.streaming=true cannot be taken apart"):
        diagnose(tiny("data.streaming=true", "data.streaming_clips=8"))
    with pytest.raises(DataError, match="does not exist"):
        diagnose(tiny(f"data.train=[{tmp_path / 'nowhere'}]"))


@pytest.mark.slow
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
