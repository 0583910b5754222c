"""Checkpoints on the disk: whole or not there, of plain values, with their weights beside them."""

import fcntl
import os
import resource
import signal
from collections import OrderedDict
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import atr
from atr import experiment
from atr.checkpoint import newest_checkpoint, read_checkpoint
from atr.errors import CheckpointError
from atr.experiment import build_trainer, train
from atr.tasks.files import WholeFiles, clear_parts, plain

ABOUT = {"format": 1, "config": "model: {}", "text_config": {}, "tokenizer": {}, "labels": [], "data": {}}


def content(step, size=3):
    return {"global_step": step, "state_dict": {"model.a": torch.full((size,), float(step))}, "atr": ABOUT}


def step(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "runs" / "one" / "checkpoints" / "last.ckpt"
    WholeFiles().save_checkpoint(content(1), path)
    return path


def test_the_trainer_writes_whole_files(tiny, tmp_path):
    trainer = build_trainer(tiny(), tmp_path, None, pl.Callback())
    assert isinstance(trainer.strategy.checkpoint_io, WholeFiles)


def test_a_save_that_is_cut_off_leaves_the_old_files_and_one_part(path, monkeypatch):
    def cut_off(content, file):
        file.write(b"the first bytes")
        raise KeyboardInterrupt

    before = {name.name: name.read_bytes() for name in path.parent.iterdir()}
    assert set(before) == {"last.ckpt", "last.safetensors"}
    monkeypatch.setattr(torch, "save", cut_off)
    for name in ("last.ckpt", "best.ckpt", "best-step000002-0.5000.ckpt"):
        with pytest.raises(KeyboardInterrupt):
            WholeFiles().save_checkpoint(content(2), path.with_name(name))
    after = {name.name: name.read_bytes() for name in path.parent.iterdir()}
    assert after == before | {"checkpoint.part": b"the first bytes"}  # they do not pile up
    monkeypatch.undo()
    WholeFiles().save_checkpoint(content(3), path)
    assert step(path) == 3 and {name.name for name in path.parent.iterdir()} == set(before)


def test_files_are_on_the_disk_before_they_take_their_names(path, monkeypatch):
    order = []
    fsync, replace = os.fsync, Path.replace

    def named(number):
        order.append(("fsync", Path(os.readlink(f"/proc/self/fd/{number}")).name))
        fsync(number)

    monkeypatch.setattr(os, "fsync", named)
    monkeypatch.setattr(Path, "replace", lambda self, to: order.append(("name", to.name)) or replace(self, to))
    WholeFiles().save_checkpoint(content(2), path)
    assert order == [
        ("fsync", "checkpoint.part"), ("fsync", "weights.part"), ("name", "last.ckpt"), ("name", "last.safetensors"),
        ("fsync", "checkpoints"),
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [100, 3_000, 300_000])
def test_a_full_disk_is_named_and_leaves_the_old_files(path, limit):
    """A limit of the system on the size of a file stands for a disk that is full after so many bytes."""
    before = {name.name: name.read_bytes() for name in path.parent.iterdir()}
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(
            CheckpointError, match=r"last\.ckpt cannot be written \(.+\); what stood there before is un"
        ):
            WholeFiles().save_checkpoint(content(2, size=100_000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert {name.name: name.read_bytes() for name in path.parent.iterdir()} == before


def test_what_killed_runs_left_is_cleared_but_not_what_is_being_written(path):
    dead, alive = path.with_name("checkpoint.part"), path.with_name("weights.part")
    dead.touch()
    with alive.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clear_parts(path.parent.parent.parent)
        assert not dead.exists() and alive.exists() and path.exists()


def test_removing_a_checkpoint_removes_its_weights(path):
    WholeFiles().remove_checkpoint(path)
    assert list(path.parent.iterdir()) == []


def test_a_value_that_could_not_be_read_again_is_refused_by_its_place(path):
    with pytest.raises(CheckpointError, match=r"checkpoint\['callbacks'\]\['Mine'\]\[0\] is a pathlib\.PosixPath; a"):
        WholeFiles().save_checkpoint(content(2) | {"callbacks": {"Mine": [Path("x")]}}, path)
    assert step(path) == 1
    state = OrderedDict(w=torch.nn.Parameter(torch.ones(2)), b=(0.9, 0.999))
    assert type(plain(state, "x")) is dict and type(plain(state, "x")["w"]) is Tensor
    assert plain(state, "x")["b"] == (0.9, 0.999)


class Counter(pl.Callback):
    """Has a state of its own, as an average of the weights would."""

    def __init__(self):
        self.count, self.average, self.loaded = 0, torch.zeros(2), None

    def on_train_batch_end(self, trainer, module, *arguments):
        self.count += 1
        self.average = 0.9 * self.average + 0.1 * module.loss.logit_scale.detach()

    def state_dict(self):
        return {"count": self.count, "average": self.average, "history": [1, 2.0, "three", None, True]}

    def load_state_dict(self, state_dict):
        self.loaded = state_dict
        self.count, self.average = state_dict["count"], state_dict["average"]


def test_a_real_checkpoint_holds_tensors_and_plain_values_and_a_callback_goes_on(tiny, tmp_path, monkeypatch):
    counters = []

    def counting(*arguments):
        trainer = build_trainer(*arguments)
        counters.append(Counter())
        trainer.callbacks.append(counters[-1])
        return trainer

    monkeypatch.setattr(experiment, "build_trainer", counting)
    monitor = ["evaluation.monitor=validation/retrieval/t2a/mAP@10", f"data.validation=[{tiny.shards}]"]
    settings = [*monitor, "optimizer=adamw", "data.test=[]"]
    train(tiny(*settings, f"run_dir={tmp_path / 'whole'}", "trainer.max_epochs=2"))
    train(tiny(*settings, f"run_dir={tmp_path / 'first'}", "trainer.max_epochs=1"))
    train(tiny(*settings, f"run_dir={tmp_path / 'rest'}", "resume=auto", "trainer.max_epochs=2", "trainer.max_steps=4"))
    whole, first, rest = counters
    assert rest.loaded["count"] == first.count == 2 and rest.count == whole.count == 4
    assert rest.loaded["history"] == [1, 2.0, "three", None, True] and first.average[0] > 0
    for name in ("last", "best"):
        read = torch.load(tmp_path / "first" / "checkpoints" / f"{name}.ckpt", weights_only=True)
        found = {type(value) for value in values(read)}
        assert found == {Tensor, dict, list, tuple, str, int, float, bool, type(None)}
        assert {"callbacks", "loops", "lr_schedulers", "optimizer_states", "state_dict", "atr"} <= set(read)
    assert {"KeepBest", "SaveWhenStopped", "Counter"} <= set(read["callbacks"])


def values(node):
    """Everything in a checkpoint, keys and containers too; a subclass of dict counts as what it is."""
    yield node
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from values(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from values(value)


def test_the_weights_alone_are_a_model_to_use(tiny, tmp_path):
    train(tiny("trainer.max_epochs=1", "data.test=[]"))
    path = tiny.run_dir / "checkpoints" / "last.ckpt"
    alone = tmp_path / "elsewhere" / "model.safetensors"
    alone.parent.mkdir()
    alone.write_bytes(path.with_suffix(".safetensors").read_bytes())
    one, other = atr.load(path), atr.load(alone)
    assert torch.equal(one.encode_text(["a low note"]), other.encode_text(["a low note"]))
    sound = (torch.randn(16_000, generator=torch.Generator().manual_seed(0)).numpy(), 16_000)
    assert torch.equal(one.encode_audio([sound]), other.encode_audio([sound])) and one.labels == other.labels
    assert read_checkpoint(alone).step == read_checkpoint(path).step == 2
    scale = torch.load(path, weights_only=True)["state_dict"]["loss.logit_scale"].item()
    assert read_checkpoint(alone).log_scale == read_checkpoint(path).log_scale == scale != 0.0
    weights = load_file(alone)
    save_file(weights, alone, {"atr": safe_open(alone, "pt").metadata()["atr"]})  # as before the scale was kept
    assert read_checkpoint(alone).log_scale is None and read_checkpoint(alone).step == 0
    alone.write_bytes(path.with_suffix(".safetensors").read_bytes())
    assert alone.stat().st_size < 0.6 * path.stat().st_size
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds weights only; go on with the \.ckpt beside"):
        train(tiny(f"resume={alone}"))
    train(tiny(f"init={alone}", "trainer.max_epochs=1", "data.test=[]", f"run_dir={tmp_path / 'second'}"))
    for size in (0, 7, 1000, alone.stat().st_size - 1):
        alone.write_bytes(path.with_suffix(".safetensors").read_bytes()[:size])
        with pytest.raises(CheckpointError, match=r"model\.safetensors is not a checkpoint of atr"):
            atr.load(alone)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of atr's format, without a model that could be built."""
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    WholeFiles().save_checkpoint(content(5, size=5000), path)
    return path.read_bytes()


def put(folder, name, data, when):
    path = folder / name / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    os.utime(path, (when, when))
    return path


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_auto_takes_the_newest_run_that_has_a_whole_one(tmp_path, trained, keep):
    """Cut off at several places; a folder, a part and a file of another format are no checkpoints either."""
    whole = put(tmp_path, "a", trained, 100)
    put(tmp_path, "b", trained[: int(keep * len(trained))], 200)
    put(tmp_path, "c", b"", 300)
    (tmp_path / "d" / "checkpoints" / "last.ckpt").mkdir(parents=True)
    put(tmp_path, "e", trained, 50)
    torch.save({"state_dict": {}, "global_step": 9}, tmp_path / "e" / "checkpoints" / "other.ckpt")
    put(tmp_path, "f", trained, 400).rename(tmp_path / "f" / "checkpoints" / "checkpoint.part")
    os.utime(tmp_path / "e" / "checkpoints" / "other.ckpt", (60, 60))
    assert newest_checkpoint(tmp_path) == whole
    newer = put(tmp_path, "g", trained, 500)
    assert newest_checkpoint(tmp_path) == newer and newest_checkpoint(tmp_path, "a") == whole


def test_within_a_run_the_last_step_counts_and_not_the_time(tmp_path):
    """An older best.ckpt may be the newer file: it was copied there."""
    folder = tmp_path / "run" / "checkpoints"
    for name, step, when in (("last", 8, 100), ("best", 4, 200)):
        WholeFiles().save_checkpoint(content(step), folder / f"{name}.ckpt")
        os.utime(folder / f"{name}.ckpt", (when, when))
    assert newest_checkpoint(tmp_path) == folder / "last.ckpt"
