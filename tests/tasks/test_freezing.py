"""Frozen parts stay bit for bit as they are, and move afterwards."""

import os
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch

from atr.config import build
from atr.errors import CheckpointError
from atr.losses import InfoNCE
from atr.optim import Groups
from atr.tasks.freezing import Freezing
from tests.conftest import TINY
from tests.tasks.recording import Runs

AUDIO, TEXT, PROJECTIONS = "model.audio.", "model.text.", ("model.audio_projection.", "model.text_projection.")


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    return Runs(tiny, tmp_path, monkeypatch)


def moved(before, after, prefix):
    """How many tensors with a prefix are not bit for bit the same, and how many there are."""
    names = [name for name in before if name.startswith(prefix)]
    return sum(not torch.equal(before[name], after[name]) for name in names), len(names)


def test_parts_that_are_frozen_for_some_epochs(run, capsys):
    """Audio for one epoch, text for two, of three epochs of two steps. Decay would move them without a gradient."""
    record = run("some", "parameters.freeze={audio: 1, text: 2}")
    start, first, second, third = record.states[0], record.states[2], record.states[4], record.states[6]
    audio, text = len([n for n in start if n.startswith(AUDIO)]), len([n for n in start if n.startswith(TEXT)])
    assert moved(start, first, AUDIO) == (0, audio) and moved(start, first, TEXT) == (0, text)
    assert moved(start, second, TEXT) == (0, text)
    changed, _ = moved(first, second, AUDIO)
    assert changed == audio  # running statistics and their count, too
    assert moved(second, third, TEXT)[0] >= text - 1  # the embedding of a second type of token gets no gradient
    for before, after in ((start, first), (first, second), (second, third)):
        assert moved(before, after, "loss.") == (1, 1) and moved(before, after, PROJECTIONS) == (8, 8)
    assert [modes["audio"] for modes in record.modes] == [False] * 2 + [True] * 4
    assert [modes["text"] for modes in record.modes] == [False] * 4 + [True] * 2
    assert all(modes["audio_projection"] and modes["text_projection"] for modes in record.modes)
    with_moments = [{name.split(".")[1] for name in names} for names in record.moments]
    always = {"audio_projection", "text_projection", "logit_scale"}
    assert with_moments == [always] * 2 + [always | {"audio"}] * 2 + [always | {"audio", "text"}] * 2
    assert "frozen      audio in the first 1 epochs, text in the first 2 epochs\n" in capsys.readouterr().out


def test_parts_that_are_frozen_for_good_have_no_gradient(run, capsys):
    grads = set()

    class Look(pl.Callback):
        def on_after_backward(self, trainer, module):
            grads.update(name for name, p in module.named_parameters() if p.grad is not None)

    record = run("good", "parameters.freeze={text: -1, projections: -1}", callbacks=[Look()])
    start, end = record.states[0], record.states[-1]
    assert moved(start, end, TEXT)[0] == 0 and moved(start, end, PROJECTIONS)[0] == 0
    assert moved(start, end, AUDIO)[0] > 50 and moved(start, end, "loss.") == (1, 1)
    assert {name for name in grads if not name.startswith(AUDIO)} == {"loss.logit_scale"}
    assert record.modes == [{"mel": True, "audio": True, "text": False, "audio_projection": False,
                             "text_projection": False}] * 6  # fmt: skip
    assert "frozen      text for good, projections for good\n" in capsys.readouterr().out


def test_every_parameter_of_the_real_model_has_its_part(tiny):
    model, loss = build(tiny().model), InfoNCE()
    groups = Groups(audio_lr=2.0, text_lr=3.0, projection_lr=5.0)(model, loss, lr=1.0)
    factors = {id(p): group["lr"] for group in groups for p in group["params"]}
    expected = {id(p): 5.0 for p in [*model.parameters(), *loss.parameters()]}
    expected |= {id(p): 2.0 for p in model.audio.parameters()} | {id(p): 3.0 for p in model.text.parameters()}
    assert factors == expected and sum(len(group["params"]) for group in groups) == len(expected)


def test_resuming_is_exact_within_frozen_epochs_and_after(run, tmp_path):
    (tmp_path / "saved").mkdir()
    settings = ["parameters.freeze={audio: 1, text: 2}", "parameters.text_lr=0.3", "parameters.layer_decay=0.7",
                "optimizer=timm"]  # fmt: skip
    whole = run("whole", *settings, folder=tmp_path / "saved")
    for step in (1, 3):  # in the middle of an epoch
        rest = run(f"rest{step}", *settings, f"resume={tmp_path / 'saved' / f'{step}_batch_end.ckpt'}")
        assert len(rest.states) == 7 - step
        assert all(torch.equal(rest.states[-1][name], value) for name, value in whole.states[-1].items())
        assert rest.modes == whole.modes[step:] and rest.moments == whole.moments[step:]


def test_other_settings_are_refused_on_resuming(run, tmp_path):
    run("first", "trainer.max_epochs=1")
    with pytest.raises(CheckpointError, match=r"other values of parameters, ema;"):
        run("second", f"resume={tmp_path / 'first' / 'checkpoints' / 'last.ckpt'}", "parameters.text_lr=0.5", "ema=0.9")


def test_clipping_bounds_the_norm_without_the_frozen_parts(run):
    """In the first epoch the rest alone makes up the norm; counted in, the frozen part would leave it less."""
    raw, seen = [], []

    class Norms(pl.Callback):
        def on_after_backward(self, trainer, module):  # before the module's hook of this name
            named = [(name, p.grad.norm()) for name, p in module.named_parameters() if p.grad is not None]
            raw.append([torch.stack([g for name, g in named if name.startswith(AUDIO) == part]).norm().item()
                        for part in (True, False)])  # fmt: skip

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            counted = [(name, p.grad.norm()) for name, p in module.named_parameters() if p.grad is not None]
            grads = [norm for name, norm in counted if trainer.current_epoch > 0 or not name.startswith(AUDIO)]
            seen.append(torch.stack(grads).norm().item())

    run("clipped", "parameters.freeze.audio=1", "+trainer.gradient_clip_algorithm=norm",
        "trainer.gradient_clip_val=0.01", callbacks=[Norms()])  # fmt: skip
    assert all(rest > 0.02 and audio > 0.2 * rest for audio, rest in raw)  # clipping has something to do
    assert seen == pytest.approx([0.01] * 6, rel=1e-3)


def test_a_part_that_is_frozen_longer_than_the_run_is_warned_of(tiny):
    model = build(tiny().model)
    line = r"warning     parameters.freeze.text=3 and trainer.max_epochs=3: it is never trained"
    assert Freezing(model, {"text": 3}).lines(3)[1].startswith(line)
    assert len(Freezing(model, {"text": 3}).lines(4)) == 1
    assert len(Freezing(model, {"text": 3}).lines(None)) == len(Freezing(model, {"text": 3}).lines(-1)) == 1
    assert len(Freezing(model, {"text": -1}).lines(3)) == 1 and Freezing(model, {"text": 0}).lines(3) == []


CHILD = """
import sys
import pytorch_lightning as pl
import torch
from atr import experiment
from atr.config import compose_config
from atr.tasks.averaging import WeightAverage
from atr.tasks.trainer import build_trainer

class Look(pl.Callback):
    def on_train_epoch_end(self, trainer, module):
        (average,) = [c for c in trainer.callbacks if isinstance(c, WeightAverage)]
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        content = {"state": module.state_dict(), "average": dict(zip(names, average._others, strict=True))}
        torch.save(content, f"{sys.argv[1]}/{trainer.global_rank}_{trainer.current_epoch}.pt")

def build(*arguments):
    trainer = build_trainer(*arguments)
    trainer.callbacks.append(Look())
    return trainer

experiment.build_trainer = build
experiment.train(compose_config(sys.argv[2:]))
"""


@pytest.mark.slow
def test_two_processes_with_a_frozen_tower(tiny, tmp_path):
    """DDP stops at the second step when a parameter got no gradient in the first; its weights stay in step."""
    (tmp_path / "child.py").write_text(CHILD)
    overrides = [*TINY, f"run_dir={tmp_path / 'two'}", f"data.train=[{tiny.shards}]", "data.test=[]",
                 f"data.validation=[{tiny.shards}]", "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=3",
                 "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp", "trainer.precision=32-true",
                 "schedule.warmup_steps=2", "augment=none", "ema=0.5", "optimizer.lr=1e-2",
                 "parameters.freeze={text: 1, projections: -1}"]  # fmt: skip
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "child.py"), str(tmp_path), *overrides]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=one_thread)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("frozen      ") == 1
    ranks = [[torch.load(tmp_path / f"{rank}_{epoch}.pt") for epoch in range(3)] for rank in (0, 1)]
    torch.manual_seed(0)
    start = {f"model.{name}": value for name, value in build(tiny().model).state_dict().items()}
    states = [content["state"] for content in ranks[0]]
    assert moved(start, states[0], TEXT)[0] == 0 and moved(start, states[2], PROJECTIONS)[0] == 0
    assert moved(states[0], states[1], TEXT)[0] > 10 and moved(start, states[0], AUDIO)[0] > 50
    for mine, theirs in zip(*ranks, strict=True):
        assert all(torch.equal(mine["average"][name], theirs["average"][name]) for name in mine["average"])
        assert not torch.equal(mine["average"]["loss.logit_scale"], mine["state"]["loss.logit_scale"])
        for name in mine["average"]:
            assert torch.equal(mine["state"][name], theirs["state"][name]), name
