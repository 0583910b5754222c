"""Training a model with feature fusion: not used by clips of the model's length, trained by longer ones."""

import json

import pytest
import torch

from atr.checkpoint import build_model, read_checkpoint
from tests.conftest import ROOT
from tests.ranks_child import run
from tests.tasks.test_sharding import LIMIT, Runs, torchrun

FUSED = ("model/audio=htsat_tiny_fused", "model/mel=clap_48k_htk")
PARTS = ("model.audio.fusion.", "model.audio.local_patch_embed.")
LONG = "data.seconds=2.0"


def plan(runs: Runs, name: str, devices: int, *overrides: str) -> dict:
    made = runs.plan(name, devices)
    return made | {"overrides": [*made["overrides"], *FUSED, "trainer.max_epochs=1", *overrides]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    """Four steps each, of one process and of two, with clips of the model's length and of twice it."""
    runs = Runs(tmp_path_factory.mktemp("fusion"))
    plans = [plan(runs, "ddp", 2), plan(runs, "ddp-long", 2, LONG), plan(runs, "scale", 2)]
    (runs.folder / "plans.json").write_text(json.dumps(plans))
    (runs.folder / "said").write_text(
        torchrun(2, str(ROOT / "tests" / "ranks_child.py"), str(runs.folder / "plans.json"))
    )
    return runs


def moved(runs: Runs, one: str, other: str) -> set[bool]:
    """Whether the parameters of the fusion differ: of all, or of some."""
    ours, theirs = runs.weights(one), runs.weights(other)
    names = [name for name in ours if name.startswith(PARTS) and name.endswith(("weight", "bias"))]
    assert len(names) == 2 + 2 * 8
    return {not torch.equal(ours[name], theirs[name]) for name in names}


def test_with_clips_of_the_models_length_it_is_frozen_and_two_processes_train_as_one(runs, capsys):
    run(**plan(runs, "one", 1, "parameters.layer_decay=0.8", "ema=0.5", "trainer.max_epochs=2"))
    assert "frozen      fusion for good (no clip is longer than the model's)\n" in capsys.readouterr().out
    run(**plan(runs, "same", 1))
    losses, weights = runs.apart("same", "ddp")
    assert losses < LIMIT and weights < LIMIT
    assert moved(runs, "one", "ddp") == {False}
    for name, value in runs.weights("one").items():  # not by statistics, either
        if name.startswith(PARTS):
            assert torch.equal(value, runs.weights("ddp")[name]), name
    assert runs.apart("one", "ddp")[1] > 1e-3


def test_longer_clips_train_it(runs):
    assert (runs.folder / "said").read_text().count("frozen      fusion for good") == 1  # of two runs
    assert moved(runs, "ddp-long", "ddp") == {True}
    counts = {n: v for n, v in runs.weights("ddp-long").items() if n.startswith(PARTS) and n.endswith("tracked")}
    assert len(counts) == 4 and set(map(int, counts.values())) == {4}


@torch.inference_mode()
def test_its_checkpoint_hears_long_clips(runs):
    model = build_model(read_checkpoint(runs.checkpoint("ddp-long")))
    waveform = torch.randn(2, 40_000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert model.fuses and model.log_mel(waveform).shape == (2, 4, 101, 32)
    assert torch.equal(model.encode_audio(waveform), model.encode_audio(waveform))
