"""Reading checkpoints: whole ones, and everything that is not one. Nothing is executed, nothing is guessed."""

import pickle
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import atr
from atr.checkpoint import build_model, read_checkpoint
from atr.errors import CheckpointError
from atr.experiment import train


@pytest.fixture
def path(tiny) -> Path:
    train(tiny("trainer.max_epochs=1"))
    return tiny.run_dir / "checkpoints" / "last.ckpt"


def changed(path, change) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path.with_name("changed.ckpt"))
    return path.with_name("changed.ckpt")


def test_everything_is_tensors_and_plain_values(path):
    content = torch.load(path, weights_only=True)  # refuses anything else
    assert {"state_dict", "optimizer_states", "atr"} <= set(content)
    checkpoint = read_checkpoint(path)
    assert build_model(checkpoint).state_dict().keys() == checkpoint.weights.keys()


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_file_with_code_in_it_is_refused_and_not_executed(tmp_path, writer):
    bomb, trace = tmp_path / "bomb.ckpt", tmp_path / "executed"
    if writer == "pickle":
        bomb.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save({"state_dict": Bomb(trace)}, bomb)
    with pytest.raises(CheckpointError, match="is not a checkpoint of atr"):
        atr.load(bomb)
    assert not trace.exists()


@pytest.mark.parametrize("trick", ["other module", "attribute walk", "interpolation", "escaped"])
def test_a_configuration_that_asks_for_other_code_is_refused(path, tmp_path, trick):
    touch = {"self": {"_target_": "pathlib.Path", "_args_": [str(tmp_path / "x")]}}

    def evil(content):
        cfg = OmegaConf.create(content["atr"]["config"])
        if trick == "other module":
            cfg.model.audio = {"_target_": "pathlib.Path.touch", **touch}
        elif trick == "attribute walk":
            cfg.model.audio = {"_target_": "atr.models.text.Path.touch", **touch}
        else:
            cfg.evil = {"_target_": "pathlib.Path.touch", **touch}
            cfg.model.audio = "${evil}"
        content["atr"]["config"] = OmegaConf.to_yaml(cfg)
        if trick == "escaped":  # YAML reads \\x24 as a dollar
            content["atr"]["config"] = content["atr"]["config"].replace("${evil}", '"\\x24{evil}"')

    with pytest.raises(CheckpointError, match=r"only these are built|hold interpolations"):
        atr.load(changed(path, evil))
    assert not (tmp_path / "x").exists()


def test_what_is_not_a_checkpoint_is_refused(path, tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.ckpt is not there; checkpoints beside it: last\.ckpt"):
        atr.load(path.with_name("none.ckpt"))
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.ckpt is not a checkpoint of atr \(5 bytes\)"):
        atr.load(tmp_path / "text.ckpt")
    for share in (0.3, 0.9, 0.999):
        half = path.with_name("half.ckpt")
        half.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(CheckpointError, match=r"half\.ckpt is not a checkpoint"):
            atr.load(half)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="no `atr` entry"):
        atr.load(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"config": None}, "has no `model`"),
        ({"config": "a: ["}, "its configuration cannot be read"),
        ({"config": "- 1"}, "its configuration cannot be read"),
        ({"config": "a: 1"}, "has no `model`"),
    ],
)
def test_a_damaged_entry_is_refused(path, entry, message):
    with pytest.raises(CheckpointError, match=message):
        atr.load(changed(path, lambda content: content["atr"].update(entry)))
    with pytest.raises(CheckpointError, match="its `atr` entry lacks config, "):
        atr.load(changed(path, lambda content: content.update(atr={"format": 1})))


@pytest.mark.parametrize("change", ["missing", "left over", "shape"])
def test_weights_that_do_not_fit_are_refused(path, change):
    def spoil(content):
        state, key = content["state_dict"], "model.audio.norm.weight"
        if change == "missing":
            del state[key]
        elif change == "left over":
            state["model.audio.extra"] = torch.zeros(1)
        else:
            state[key] = torch.zeros(3)

    with pytest.raises(CheckpointError, match=r"another architecture: .*1 "):
        atr.load(changed(path, spoil))


def test_a_text_tokenizer_file_cannot_leave_its_folder(path):
    def spoil(content):
        content["atr"]["tokenizer"]["../x.json"] = "{}"

    with pytest.raises(CheckpointError, match="not a plain file name"):
        atr.load(changed(path, spoil))
