"""Training a model with feature fusion: not used by clips of the model's length, trained by longer ones."""

import json

import pytest
import torch
from torch import Tensor

from atr.checkpoint import build_model, read_checkpoint
from atr.config import build, compose_config
from tests.conftest import ROOT
from tests.ranks_child import run
from tests.tasks.test_sharding import LIMIT, Runs, torchrun

FUSED = ("model/audio=htsat_tiny_fused", "model/mel=clap_48k_htk")
PARTS = ("model.audio.fusion.", "model.audio.local_patch_embed.")
STEPS = 4
LONG = "data.seconds=2.0"


def plan(runs: Runs, name: str, devices: int, *overrides: str) -> dict:
    made = runs.plan(name, devices)
    return made | {
        "overrides": [*made["overrides"], *FUSED, "trainer.max_epochs=1", "data.validation=null", *overrides]
    }


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


def fusion(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Its parameters and statistics."""
    return {name: value for name, value in weights.items() if name.startswith(PARTS)}


def test_with_clips_of_the_models_length_it_is_frozen_and_two_processes_train_as_one(runs, capsys):
    alone = plan(runs, "one", 1)
    run(**alone)
    assert "frozen      fusion for good (no clip is longer than the model's)\n" in capsys.readouterr().out
    losses, weights = runs.apart("one", "ddp")
    assert losses < LIMIT and weights < LIMIT
    torch.manual_seed(0)
    start = {
        f"model.{name}": value for name, value in build(compose_config(alone["overrides"]).model).state_dict().items()
    }
    assert len(fusion(start)) == 2 + 2 * (2 + 5 + 2 + 5)
    for name, value in fusion(start).items():
        assert torch.equal(value, runs.weights("one")[name]) and torch.equal(value, runs.weights("ddp")[name]), name
    name = "model.audio.patch_embed.weight"
    assert not torch.equal(start[name], runs.weights("one")[name])


def test_longer_clips_train_it(runs):
    assert (runs.folder / "said").read_text().count("frozen      fusion for good") == 1  # of two runs
    before, after = fusion(runs.weights("ddp")), fusion(runs.weights("ddp-long"))
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    counts = [int(value) for name, value in after.items() if name.endswith("num_batches_tracked")]
    assert counts == [STEPS] * 4


@torch.inference_mode()
def test_its_checkpoint_hears_long_clips(runs):
    model = build_model(read_checkpoint(runs.checkpoint("ddp-long")))
    waveform = torch.randn(2, 40_000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert model.fuses and model.log_mel(waveform).shape == (2, 4, 101, 32)
    assert torch.equal(model.encode_audio(waveform), model.encode_audio(waveform))
