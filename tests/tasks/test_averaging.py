"""The moving average equals one by hand; it is validated, saved and evaluated; training goes on from the weights."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy

import atr
from atr import experiment
from atr.errors import UsageError
from atr.experiment import train
from atr.tasks import contrastive
from atr.tasks.averaging import WeightAverage
from tests.tasks.recording import PLACES, Runs, copied

CLOSE = {"rtol": 0, "atol": 1e-6}  # float32 against float64; measured: 6e-8. One step changes weights by 1e-2


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    return Runs(tiny, tmp_path, monkeypatch)


def by_hand(states, decay, trained):
    """The averages after 0, 1, 2, … steps in float64; other tensors are those of the last step."""
    averages = [{name: value.double() if name in trained else value for name, value in states[0].items()}]
    for state in states[1:]:
        before = averages[-1]
        averages.append(
            {n: decay * before[n] + (1 - decay) * v.double() if n in trained else v for n, v in state.items()}
        )
    return averages


def same(state, reference):
    """Are all tensors of a state those of a reference, to rounding?"""
    assert state.keys() == reference.keys()
    return all(torch.allclose(value.double(), reference[name].double(), **CLOSE) for name, value in state.items())


def equal(state, reference):
    """Bit for bit."""
    assert state.keys() == reference.keys()
    return all(torch.equal(value, reference[name]) for name, value in state.items())


def trained(record):
    return set(record.names.values())


def read(folder, name="last.ckpt"):
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def test_the_average_is_saved_and_evaluated_and_the_weights_are_kept(run, tmp_path, monkeypatch):
    evaluated = []
    finish = experiment.finish
    monkeypatch.setattr(experiment, "finish", lambda cfg, model, *a: evaluated.append(model) or finish(cfg, model, *a))
    record = run("whole", "ema=0.8", f"data.test=[{run.tiny.shards}]")
    references = by_hand(record.states, 0.8, trained(record))
    saved = read(tmp_path / "whole")
    assert same(saved["state_dict"], references[-1])
    assert not same(saved["state_dict"], record.states[-1]) and not same(saved["state_dict"], references[-2])
    assert equal(saved["current_model_state"], record.states[-1])
    count = saved["state_dict"]["model.audio.mel_norm.num_batches_tracked"]
    assert count.dtype == torch.int64 and count == 6
    loaded = atr.load(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    for model in (evaluated[0], loaded.clap):
        own = {f"model.{name}": value for name, value in model.state_dict().items()}
        assert equal(own, {name: saved["state_dict"][name] for name in own})


def test_validation_sees_the_average_and_training_does_not(run, tmp_path, monkeypatch):
    """In the encoding of clips, and of captions and prompts, which comes after the callbacks' own hooks."""
    seen = []

    def looking(function):
        def look(model, *arguments, **named):
            seen.append({f"model.{name}": value for name, value in copied(model).items()})
            return function(model, *arguments, **named)

        return look

    for name in ("encode_clips", "join_set", "score"):
        monkeypatch.setattr(contrastive, name, looking(getattr(contrastive, name)))
    record = run(
        "whole", "ema=0.8", f"data.validation=[{tmp_path / 'validation'}]", "trainer.max_epochs=2",
        "trainer.val_check_interval=0.5", "evaluation.monitor=validation/clips",
    )  # fmt: skip
    references = by_hand(record.states, 0.8, trained(record))
    assert len(seen) == 4 * 3
    for step in range(4):
        reference = {name: value for name, value in references[step + 1].items() if name.startswith("model.")}
        assert all(same(state, reference) for state in seen[3 * step : 3 * step + 3])
    for step, state in record.begins:
        assert equal(state, record.states[step])
    best = read(tmp_path / "whole", "best.ckpt")  # the first one, as the number never grows
    assert best["global_step"] == 1 and same(best["state_dict"], references[1])
    assert equal(best["current_model_state"], record.states[1])


def test_wherever_it_was_written_the_rest_is_trained(run, tmp_path):
    """Also in a validation, while the average is in the model, and before a step's average was taken."""
    (tmp_path / "saved").mkdir()
    settings = ["ema=0.8", f"data.validation=[{tmp_path / 'validation'}]", "parameters.freeze.text=1"]
    whole = run("whole", *settings, folder=tmp_path / "saved")
    references, end = by_hand(whole.states, 0.8, trained(whole)), read(tmp_path / "whole")
    paths = [tmp_path / "saved" / f"{step}_{place}.ckpt" for step in (2, 3) for place in PLACES]
    paths = [path for path in paths if path.exists()]
    assert [path.stem for path in paths] == [
        "2_batch_start", "2_batch_end", "2_validation_start", "2_validation_end", "2_epoch_end",
        "3_batch_start", "3_batch_end",
    ]  # fmt: skip
    for path in paths:
        step, content = int(path.name[0]), torch.load(path, weights_only=True)
        assert same(content["state_dict"], references[step]), path.name
        assert equal(content["current_model_state"], whole.states[step]), path.name
        if path.stem in ("2_validation_end", "3_batch_end"):
            (again := tmp_path / f"again_{path.stem}").mkdir()
            rest = run(f"rest_{path.stem}", *settings, f"resume={path}", folder=again)
            first = torch.load(again / f"{step}_batch_start.ckpt", weights_only=True)  # nothing was taken in twice
            assert equal(first["state_dict"], content["state_dict"]), path.name
            assert equal(rest.states[0], whole.states[step]) and equal(rest.states[-1], whole.states[-1])
            state = read(tmp_path / f"rest_{path.stem}")
            for key in ("state_dict", "current_model_state"):
                assert equal(state[key], end[key]), (path.name, key)


def test_a_finished_run_goes_on_from_its_weights(run, tmp_path, monkeypatch):
    evaluated = []
    monkeypatch.setattr(experiment, "finish", lambda cfg, model, *rest: evaluated.append(copied(model)) or {})
    test = f"data.test=[{run.tiny.shards}]"
    first = run("first", "ema=0.8", "trainer.max_epochs=1")
    nothing = run("second", "ema=0.8", "trainer.max_epochs=1", "resume=auto", test)
    assert nothing.states == []
    before, after = read(tmp_path / "first"), read(tmp_path / "second")
    for key in ("state_dict", "current_model_state"):
        assert equal(before[key], after[key])
    own = {f"model.{name}": value for name, value in evaluated[0].items()}
    assert equal(own, {name: before["state_dict"][name] for name in own})
    third = run("third", "ema=0.8", "trainer.max_epochs=2", "resume=auto")
    assert equal(third.states[0], first.states[-1])
    references = by_hand(first.states + third.states[1:], 0.8, trained(first))
    assert same(read(tmp_path / "third")["state_dict"], references[-1])


def test_a_run_that_is_stopped_within_a_validation_saves_both(run, tmp_path):
    class Stop(pl.Callback):
        def on_validation_batch_start(self, trainer, module, batch, index, dataloader_idx=0):
            if trainer.global_step == 4:
                raise RuntimeError("within the validation")

    settings = ["ema=0.8", f"data.validation=[{tmp_path / 'validation'}]"]
    with pytest.raises(RuntimeError, match="within the validation"):
        run("stopped", *settings, callbacks=[Stop()])
    saved = read(tmp_path / "stopped", "interrupted.ckpt")
    (stopped,) = run.records
    rest = run("rest", *settings, f"resume={tmp_path / 'stopped' / 'checkpoints' / 'interrupted.ckpt'}")
    references = by_hand([*stopped.states, *rest.states[1:]], 0.8, trained(rest))
    assert len(references) == 7 and saved["global_step"] == 4 and same(saved["state_dict"], references[4])
    assert equal(saved["current_model_state"], stopped.states[4]) and equal(rest.states[0], stopped.states[4])
    assert same(read(tmp_path / "rest")["state_dict"], references[-1])


@pytest.mark.parametrize("value", ["1", "0", "-0.5", "true", "yes", "[0.9]"])
def test_a_decay_that_is_none_is_refused(tiny, value):
    with pytest.raises(UsageError, match=r"ema is .*; allowed: null, or a decay between 0 and 1, e\.g\. 0\.999"):
        train(tiny(f"ema={value}"))


def test_sharded_weights_are_refused():
    trainer = SimpleNamespace(strategy=ModelParallelStrategy())
    with pytest.raises(UsageError, match=r"ema=0\.9 averages whole weights, and ModelParallelStrategy keeps a part"):
        WeightAverage(0.9).setup(trainer, pl.LightningModule(), "fit")


def test_weights_of_low_precision_are_refused(run):
    with pytest.raises(UsageError, match=r"ema=0\.9 needs weights in float32, as small steps are lost in torch\.bfl"):
        run("low", "ema=0.9", "trainer.precision=bf16-true")
