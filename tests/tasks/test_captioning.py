"""Captioning runs: what is saved, going on, several processes, stored features."""

import csv
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from transformers import GPT2Config, GPT2LMHeadModel

import atr
from atr import captioning_experiment
from atr.captioning import load_captioner, tensors_of
from atr.checkpoint import read_checkpoint
from atr.errors import CheckpointError, UsageError
from atr.experiment import build_data, train
from atr.models.captioner import Captioner
from atr.pipeline import dataset
from atr.shards.write import write_shards
from atr.tasks.captioning import CaptioningTask, sum_losses
from atr.tasks.finite import NonFinite
from atr.tasks.trainer import build_trainer
from tests.captions import SMALL_GPT2, compose, few_clips, overrides
from tests.tasks.recording import Record


@pytest.fixture
def run(trained, shards, tmp_path, monkeypatch):
    """Trains under a name; returns what was written down."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two threads wait for each other on a busy machine
    torch.set_num_threads(1)

    def run(name, *more, folder=None, base=trained, **language):
        record = Record(folder)

        def recorded(*arguments):
            trainer = build_trainer(*arguments)
            trainer.callbacks.insert(0, record)
            return trainer

        monkeypatch.setattr(captioning_experiment, "build_trainer", recorded)
        record.numbers = train(compose(base, tmp_path / name, shards, *more, **language))
        return record

    return run


@pytest.fixture
def validation(tmp_path):
    write_shards(few_clips(tmp_path / "few"), tmp_path / "validation", codec="flac")
    return f"data.validation=[{tmp_path / 'validation'}]"


def read(tmp_path, name, file="last.ckpt"):
    return torch.load(tmp_path / name / "checkpoints" / file, weights_only=True)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logged(run_dir, number):
    with (run_dir / "metrics.csv").open() as file:
        return [float(row[number]) for row in csv.DictReader(file) if row.get(number)]


def test_a_checkpoint_holds_what_is_trained_and_the_folder_the_rest(run, trained, tmp_path):
    run("run")
    content = read(tmp_path, "run")
    names = {name.split(".")[1] for name in content["state_dict"]}
    assert names == {"mapping", "language_model"} and "model.language_model.lm_head.weight" not in content["state_dict"]
    assert len(content["optimizer_states"][0]["state"]) == len(content["state_dict"])
    beside = tmp_path / "run" / "checkpoints"
    with safe_open(beside / "last.safetensors", framework="pt") as file:
        assert {f"model.{name}" for name in file.keys()} == content["state_dict"].keys()  # noqa: SIM118
    base = torch.load(trained, weights_only=True)["state_dict"]
    with safe_open(beside / "frozen.safetensors", framework="pt") as file:
        own = {name.replace("clap.", "model.", 1): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert equal(own, {name: value for name, value in base.items() if name.startswith("model.")})


@pytest.mark.parametrize("language", ["gpt2", "gpt2_lora"])
def test_of_a_frozen_gpt2_only_the_mapping_is_trained_and_saved(run, tmp_path, tokenizer, language):
    published = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=80))
    published.save_pretrained(tmp_path / "gpt2")
    tokenizer.inner.save_pretrained(tmp_path / "gpt2")
    own = (f"captioner/language_model={language}", f"captioner.language_model.name={tmp_path / 'gpt2'}")
    record = run("run", language=own)
    parts = {"gpt2": {"mapping"}, "gpt2_lora": {"mapping", "language_model"}}[language]
    assert {name.split(".")[1] for name in record.states[0]} == parts
    assert all(part.endswith(("up", "down")) for part in record.states[0] if part.startswith("model.language_model"))
    (tmp_path / "gpt2" / "model.safetensors").unlink()  # nothing is looked for there any more
    loaded = atr.load(tmp_path / "run" / "checkpoints" / "last.ckpt").captioner
    assert torch.equal(loaded.language_model.transformer.wte.weight.cpu(), published.transformer.wte.weight)
    if language == "gpt2_lora":
        assert loaded.language_model.transformer.h[0].attn.c_attn.up.abs().max() > 0


@pytest.mark.parametrize("more", [[], ["ema=0.5"]])
def test_wherever_it_was_written_the_rest_is_trained(run, validation, tmp_path, more):
    (tmp_path / "saved").mkdir()
    run("whole", validation, *more, folder=tmp_path / "saved")
    end, losses = read(tmp_path, "whole"), logged(tmp_path / "whole", "train/loss")
    assert len(losses) == 6
    for place in ("3_batch_start", "3_batch_end", "4_validation_start", "4_epoch_end"):
        frozen = tmp_path / "whole" / "checkpoints" / "frozen.safetensors"
        (tmp_path / "saved" / frozen.name).write_bytes(frozen.read_bytes())
        run(place, validation, *more, f"resume={tmp_path / 'saved' / f'{place}.ckpt'}")
        state = read(tmp_path, place)
        assert equal(end["state_dict"], state["state_dict"]), place
        assert logged(tmp_path / place, "train/loss") == losses[int(place[0]) :], place
        if more:
            assert equal(end["current_model_state"], state["current_model_state"])
            assert not equal(end["current_model_state"], end["state_dict"])


def test_another_frozen_model_is_not_gone_on_with(run, tmp_path, trained):
    run("first")
    weights = torch.load(trained, weights_only=True)
    weights["state_dict"]["model.audio_projection.0.bias"] += 1e-3
    torch.save(weights, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"was trained on other frozen weights than those of now; give init="):
        run("second", f"resume={tmp_path / 'first' / 'checkpoints' / 'last.ckpt'}", base=tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other values of captioner.mapping;"):
        run("third", f"resume={tmp_path / 'first' / 'checkpoints' / 'last.ckpt'}", "captioner.mapping.prefix_length=5")


def test_the_loss_of_the_validation_is_that_of_all_its_captions(run, validation, shards, tmp_path):
    record = run("run", validation, f"data.test=[{tmp_path / 'validation'}]",
                 "evaluation.monitor=validation/log_likelihood")  # fmt: skip
    last = load_captioner(read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt"))
    data = build_data(compose("x", tmp_path, shards, validation, "data.batch_size=1", "model.mel.seconds=1",
                              "model.mel.sample_rate=16000"), last)  # fmt: skip
    sums = [sum_losses(last, batch) for batch in data.val_dataloader()]
    loss, tokens = torch.stack(sums).sum(dim=0).tolist()
    curve = logged(tmp_path / "run", "validation/loss")
    assert curve[-1] == pytest.approx(loss / tokens, rel=1e-5) and curve[0] != pytest.approx(curve[-1], rel=1e-3)
    ids = last.tokenizer([caption for clip in few_clips(tmp_path / "few") for caption in clip.captions])
    assert tokens == ids["attention_mask"].sum()
    assert record.numbers["clips"] == 4 and record.numbers["loss"] == pytest.approx(min(curve), rel=1e-5)  # the best's


def test_an_epoch_on_stored_features_is_the_same_and_decodes_nothing(run, validation, tmp_path, monkeypatch):
    run("whole", validation)
    run("making", validation, f"captioner.cache={tmp_path / 'features'}")
    monkeypatch.setattr(dataset, "decode_clip", lambda *_: pytest.fail("a sound was decoded"))
    run("using", validation, f"captioner.cache={tmp_path / 'features'}")
    with pytest.raises(pytest.fail.Exception):
        run("control", validation)
    for name in ("making", "using"):
        assert equal(read(tmp_path, "whole")["state_dict"], read(tmp_path, name)["state_dict"])
        for number in ("train/loss", "validation/loss"):
            assert logged(tmp_path / "whole", number) == logged(tmp_path / name, number)


def test_another_model_has_features_of_its_own(run, tmp_path, trained):
    cache = f"captioner.cache={tmp_path / 'features'}"
    run("a", cache)
    run("b", cache, "seed=1", "captioner.mapping.prefix_length=5")
    assert len(list((tmp_path / "features").iterdir())) == 1
    temporal = ["captioner/mapping=transformer", "captioner.mapping.layers=1", "captioner.mapping.heads=2"]
    run("c", cache, *temporal, "captioner.temporal=true")
    assert len(list((tmp_path / "features").iterdir())) == 2


def step(model, features, tokens, rows, sums, world):
    """A training step on one of `world` devices, which has some rows of the batch; `sums` are those of all devices."""
    task = CaptioningTask(model, None, None, 0, {})
    task.log = lambda *_, **__: None
    task._trainer = SimpleNamespace(world_size=world, strategy=SimpleNamespace(reduce=lambda own, reduce_op: sums))
    own = {name: value[rows] for name, value in tokens.items()}
    return task.training_step(SimpleNamespace(features=features[rows], samples=[], **own), 0).item()


@torch.no_grad()
def test_the_mean_over_devices_is_the_loss_of_the_global_batch(run, tmp_path):
    run("run")
    model = load_captioner(read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt"))
    texts = ["do"] * 4 + ["a long caption of a dog that barks behind the fence"] * 4  # one device has few tokens
    tokens, features = model.tokenizer(texts), torch.randn(8, 32)
    sums = torch.stack([model.losses(features, **tokens).sum(), tokens["attention_mask"].sum()])
    whole = step(model, features, tokens, slice(8), sums, 1)
    assert whole == pytest.approx(model.loss(features, **tokens).item(), rel=1e-6)
    devices = [slice(4), slice(4, 8)]
    assert sum(step(model, features, tokens, rows, sums, 2) for rows in devices) / 2 == pytest.approx(whole, rel=1e-5)
    means = [model.loss(features[rows], **{name: v[rows] for name, v in tokens.items()}).item() for rows in devices]
    assert sum(means) / 2 != pytest.approx(whole, rel=1e-2)  # the mean of the devices' own means is another number


@pytest.mark.slow
def test_two_processes_train_what_one_trains(trained, shards, tmp_path):
    """Without dropout, whose masks are a device's own."""
    still = [f"captioner.language_model.config.{name}_pdrop=0" for name in ("resid", "embd", "attn")]
    for name, devices in (("one", ["trainer.devices=1"]), ("two", ["trainer.devices=2", "trainer.strategy=ddp"])):
        own = [*overrides(trained, tmp_path / name, shards), *SMALL_GPT2, *still, *devices]
        own += [f"data.validation=[{shards}]", f"captioner.cache={tmp_path / 'features' / name}"]
        result = subprocess.run(
            [sys.executable, "-m", "atr", "train", *own], capture_output=True, text=True, timeout=300, cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr[-2000:]
    assert "2 x cpu" in result.stdout
    one, two = (read(tmp_path, name)["state_dict"] for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-4, rtol=0)
    curves = [logged(tmp_path / name, "train/loss") for name in ("one", "two")]
    assert len(curves[0]) == 6 and curves[1] == pytest.approx(curves[0], rel=1e-4)
    ends = [logged(tmp_path / name, "validation/loss")[-1] for name in ("one", "two")]
    assert ends[1] == pytest.approx(ends[0], rel=1e-4)


def test_a_captioner_is_gone_on_training_from_its_checkpoint(run, tmp_path):
    first = run("first")
    second = run("second", base=tmp_path / "first" / "checkpoints" / "last.ckpt")
    assert equal(first.states[-1], second.states[0]) and not equal(first.states[-1], second.states[-1])
    with pytest.raises(CheckpointError, match=r"is a captioner with the mapping .* make captioner\.mapping the same"):
        run("third", "captioner.mapping.prefix_length=5", base=tmp_path / "first" / "checkpoints" / "last.ckpt")


def test_a_folder_of_runs_stands_for_its_newest_checkpoint(run, tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("run", base=trained.parent.parent.parent)
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt").config.init == str(trained)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: no run in this folder has a checkpoint"):
        run("other", base=tmp_path / "empty")
    with pytest.raises(UsageError, match=r"init=runs/demo is not there; train a contrastive model first"):
        run("other", base="runs/demo")
    with pytest.raises(UsageError, match=r"a captioner needs a contrastive model to stand on"):
        run("other", base="null")


def test_clips_that_the_contrastive_model_was_trained_on_are_told(run, trained, shards, capsys):
    heard = read_checkpoint(trained).config.data.train[0]
    run("run", f"data.test=[{heard}]", "data.validation=[]")
    assert f"leaks: {heard} is in data.test, and the contrastive model was trained on it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["masking=words"], "masking hides words that a captioner is to learn"),
        (["micro_batch=2"], "micro_batch and compute are for contrastive training"),
        (["compute.recompute=[audio]"], "micro_batch and compute"),
        (["parameters.audio_lr=0.1"], "parameters.* are of the contrastive model"),
        (["captioner.temporal=true"], "needs captioner/mapping=transformer"),
        (["captioner.mapping._target_=torch.nn.Linear"], "captioner.mapping is torch.nn.Linear; allowed: atr.models"),
        (["captioner.cache=x", "data.crop=random"], "and data.crop=random asks for another at each epoch"),
        (["captioner.cache=x", "augment=paper"], "and augment asks for another at each epoch"),
        (["data.crop=middle"], "data.crop is 'middle'; allowed: random, first"),
    ],
)
def test_settings_without_meaning_are_refused(run, more, message):
    with pytest.raises(UsageError, match=message):
        run("run", *more)


def test_a_loss_that_is_no_number_stops_the_run_with_the_clips_names(run, monkeypatch):
    losses = Captioner.losses

    def poisoned(self, features, input_ids, attention_mask):
        result = losses(self, features, input_ids, attention_mask)
        return torch.where(features[:, 0] == features[:, 0].max(), float("nan"), result)

    monkeypatch.setattr(Captioner, "losses", poisoned)
    with pytest.raises(NonFinite, match=r"step 1: the loss is nan\. Clips whose losses are not finite: .*note\d\d"):
        run("run")


def test_what_is_loaded_says_what_was_trained(run, trained, tmp_path, shards):
    run("run")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    model, base = atr.load(path), atr.load(trained)
    assert base.captioner is None and not model.captioner.training
    assert model.fingerprint() == base.fingerprint() and model.labels == base.labels
    state = read(tmp_path, "run")["state_dict"]
    loaded, frozen = tensors_of(model.captioner)
    assert equal({name.removeprefix("model."): value for name, value in state.items()}, loaded)
    assert all(name.startswith("clap.") for name in frozen)
    weights = atr.load(path.with_suffix(".safetensors")).captioner
    assert equal(loaded, tensors_of(weights)[0])
