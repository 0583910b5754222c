"""A loss or gradient that is no number: nothing of it is trained, the clip is named, and the run goes on exactly."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import soundfile
import torch

from atr import experiment
from atr.checkpoint import read_checkpoint
from atr.config import build
from atr.experiment import build_trainer, train
from atr.losses import InfoNCE
from atr.models.mel import LogMel
from atr.shards.write import write_shards
from atr.tasks.contrastive import ContrastiveTask
from atr.tasks.finite import NonFinite, Pair, message
from tests.conftest import ROOT, TINY, make_clips

SETTINGS = ["trainer.max_epochs=2", "data.batch_size=4", "optimizer=adamw", "data.test=null"]  # 8 steps


@pytest.fixture
def poison(monkeypatch):
    """note05 is silent, and from step `poison.after` on silence has an infinite log-mel."""
    switch = SimpleNamespace(after=0, on=False)
    forward, start = LogMel.forward, ContrastiveTask.on_train_batch_start

    def mel(self, waveform):
        silent = waveform.abs().amax(dim=-1) == 0
        return forward(self, waveform).masked_fill((silent & switch.on)[:, None, None], torch.inf)

    def watched(self, batch, batch_idx):
        switch.on = self.global_step >= switch.after
        start(self, batch, batch_idx)

    monkeypatch.setattr(LogMel, "forward", mel)
    monkeypatch.setattr(ContrastiveTask, "on_train_batch_start", watched)
    return switch


@pytest.fixture
def silent(tiny, tmp_path):
    """Composes runs on 16 clips of which note05 is silent."""
    clips = make_clips(tmp_path / "with_silence")
    soundfile.write(tmp_path / "with_silence" / "note05.wav", np.zeros(16_000, np.float32), 16_000)
    write_shards(clips, tmp_path / "poisoned", codec="flac")
    return lambda *more: tiny(f"data.train=[{tmp_path / 'poisoned'}]", *SETTINGS, *more)


def weights(run_dir):
    return read_checkpoint(run_dir / "checkpoints" / "last.ckpt").weights


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("after", [0, 4])
def test_a_run_stops_names_the_clip_and_goes_on_from_there_as_if_nothing_had_been(silent, poison, tmp_path, after):
    poison.after = 100
    train(silent(f"run_dir={tmp_path / 'whole'}"))
    poison.after = after
    with pytest.raises(NonFinite) as stop:
        train(silent(f"run_dir={tmp_path / 'run'}"))
    path = tmp_path / "run" / "checkpoints" / "interrupted.ckpt"
    said = str(stop.value)
    step = int(re.match(r"step (\d+): the loss is nan \(logit scale 14\.\d+\)\. ", said)[1])
    assert after < step <= after + 4
    assert f"not finite: {tmp_path / 'poisoned'}/00000.tar:note05; 4 in the batch. Listen to the clips" in said
    assert f"The state before this step is in {path}: resume=… goes on with it" in said
    (line,) = (tmp_path / "run" / "non_finite.jsonl").read_text().splitlines()
    listed = json.loads(line)
    assert listed["step"] == step and [clip["finite"] for clip in listed["clips"]].count(False) == 1
    content = torch.load(path, weights_only=True)
    assert content["global_step"] == step - 1
    poison.after = 100
    train(silent(f"run_dir={tmp_path / 'rest'}", f"resume={path}"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "rest"))
    assert bool(content["optimizer_states"][0]["state"]) == (step > 1)


class Look(pl.Callback):
    """Keeps the state after each step, on disk and, of the weights and moments, in memory."""

    def __init__(self, folder):
        self.folder, self.states, self.losses = folder, [], []

    def keep(self, trainer, task):
        moments = [value.clone() for state in trainer.optimizers[0].state.values() for value in state.values()]
        kept = {name: value.clone() for name, value in task.state_dict().items()}
        self.states.append(kept | dict(enumerate(moments)))

    def on_train_start(self, trainer, task):
        self.keep(trainer, task)

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.keep(trainer, task)
        self.losses.append(float(outputs["loss"]))
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def test_a_skipped_step_changes_nothing_is_listed_and_the_run_can_be_resumed_after_it(
    silent, poison, tmp_path, monkeypatch, capsys
):
    look = Look(tmp_path / "states")

    def with_look(*arguments):
        trainer = build_trainer(*arguments)
        trainer.callbacks.append(look)
        return trainer

    skip = ["watch.non_finite=skip", f"data.test=[{tmp_path / 'shards'}]"]
    monkeypatch.setattr(experiment, "build_trainer", with_look)
    train(silent(*skip, f"run_dir={tmp_path / 'whole'}"))
    monkeypatch.setattr(experiment, "build_trainer", build_trainer)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "skipped.jsonl").read_text().splitlines()]
    skipped = [line["step"] for line in lines]
    assert len(skipped) == 2 and skipped[0] <= 4 < skipped[1] <= 8
    for number in range(1, 9):
        assert same(look.states[number - 1], look.states[number]) == (number in skipped)
        assert np.isfinite(look.losses[number - 1]) == (number not in skipped)
    final = weights(tmp_path / "whole")
    assert len(look.states) == 9 and all(value.isfinite().all() for value in final.values())
    said = capsys.readouterr().out
    assert said.count("warning: step") == 2
    assert f"Its update is left out (2 so far; {tmp_path / 'whole'}/skipped.jsonl)" in said
    assert "2 steps were skipped, see skipped.jsonl" in (tmp_path / "whole" / "report" / "index.html").read_text()
    for number in skipped:  # from right after it
        place = [f"resume={tmp_path / 'states' / f'{number}.ckpt'}", f"run_dir={tmp_path / f'rest{number}'}"]
        train(silent(*skip, *place))
        assert same(final, weights(tmp_path / f"rest{number}"))


def test_too_many_skips_in_a_row_stop_the_run(silent, poison, tmp_path, monkeypatch):
    monkeypatch.setattr(InfoNCE, "forward", lambda self, *_: self.logit_scale * torch.nan)
    with pytest.raises(NonFinite, match=r"^step 3: .* 3 steps in a row, more than watch\.most_skips\. Listen"):
        train(silent("watch.non_finite=skip", "watch.most_skips=2", f"run_dir={tmp_path / 'run'}"))
    assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "run" / "checkpoints" / "interrupted.ckpt").exists()


def test_a_gradient_that_is_no_number_is_not_applied_though_the_loss_is_one(silent, tmp_path, monkeypatch):
    forward = InfoNCE.forward

    def with_root_of_nothing(self, embeddings, batch):
        return forward(self, embeddings, batch) + (0 * embeddings.audio.sum()).sqrt()

    monkeypatch.setattr(InfoNCE, "forward", with_root_of_nothing)
    with pytest.raises(
        NonFinite, match=r"^step 1: the loss is \d\.\d+, but its gradient is not finite .*By itself each"
    ):
        train(silent(f"run_dir={tmp_path / 'run'}"))


def test_weights_that_are_no_numbers_are_named_instead_of_clips(tiny):
    model = build(tiny().model)
    task = SimpleNamespace(loss=InfoNCE(), named_parameters=model.named_parameters)
    model.audio_projection[0].bias.data[3] = torch.nan
    said = message(task, float("nan"), 9, [Pair("a", "", False)])
    assert said.endswith("The weights themselves are not finite: 1 tensors, the first is audio_projection.0.bias.")


CHILD = """
import sys
import torch
from atr.models.mel import LogMel
from atr.launch import launch, quiet
forward = LogMel.forward
def mel(self, waveform):
    silent = waveform.abs().amax(dim=-1) == 0
    return forward(self, waveform).masked_fill(silent[:, None, None], torch.inf)
LogMel.forward = mel
from atr.config import compose_config
from atr.experiment import train
from atr.tasks.finite import NonFinite
quiet()
try:
    train(compose_config(sys.argv[1:]))
except NonFinite as stop:
    print("STOPPED", stop, flush=True)
    sys.exit(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["stop", pytest.param("skip", marks=pytest.mark.slow)])
def test_two_processes_agree_though_one_of_them_has_the_clip(silent, tmp_path, answer):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    overrides = [*TINY, f"data.train=[{tmp_path / 'poisoned'}]", "data.batch_size=8", "data.num_workers=0",
                 "data.test=null", "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.devices=2",
                 "trainer.strategy=ddp", "trainer.precision=32-true", "schedule.warmup_steps=2", "augment=none",
                 "loss.exclude=[caption,clip]", f"run_dir={tmp_path / 'run'}", 
                 f"watch.non_finite={answer}"]  # fmt: skip
    result = subprocess.run(
        [sys.executable, str(script), *overrides], capture_output=True, text=True, timeout=200, cwd=ROOT
    )
    assert result.returncode == (answer == "stop"), result.stderr[-2000:]
    clip = f"Clips whose embeddings are not finite: {tmp_path / 'poisoned'}/00000.tar:note05; 8 in the batch."
    if answer == "stop":
        assert clip in result.stdout and (tmp_path / "run" / "checkpoints" / "interrupted.ckpt").is_file()
    else:
        assert result.stdout.count(clip) == 2 and all(v.isfinite().all() for v in weights(tmp_path / "run").values())
