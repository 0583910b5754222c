"""A captioner from a checkpoint: complete, without a network, and without code from the file."""

import shutil

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import atr
from atr.captioning import load_captioner
from atr.checkpoint import newest_checkpoint, read_checkpoint
from atr.errors import CheckpointError
from atr.evaluation.verbs import retrieve
from atr.experiment import train
from atr.frozen import FILE, write_frozen
from atr.shards.write import write_shards
from tests.captions import compose
from tests.conftest import make_clips, tone


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """The folder of a short captioning run, and its shards."""
    folder = tmp_path_factory.mktemp("captioner")
    write_shards(make_clips(folder / "sounds"), folder / "shards", codec="flac", progress=False)
    train(compose(trained, folder / "run", folder / "shards", "trainer.max_epochs=1"))
    return folder


@pytest.fixture
def last(run, tmp_path):
    """A copy of its last checkpoint with what belongs to it."""
    for name in ("last.ckpt", FILE):
        shutil.copy(run / "run" / "checkpoints" / name, tmp_path / name)
    return tmp_path / "last.ckpt"


def test_a_moved_checkpoint_does_all_that_its_contrastive_model_does(last, trained, run):
    model, base = atr.load(last), atr.load(trained)
    sound = (tone(440), 16_000)
    assert torch.equal(model.encode_audio(sound), base.encode_audio(sound))
    assert torch.equal(model.encode_text("a do note"), base.encode_text("a do note"))
    assert read_checkpoint(last).log_scale == pytest.approx(read_checkpoint(trained).log_scale)
    results = [retrieve(path, [str(run / "shards")]).results[0] for path in (last, trained)]
    numbers = [[(row.metric, row.value) for row in one.rows["all"]] for one in results]
    assert numbers[0] == numbers[1]


def test_a_checkpoint_alone_is_no_checkpoint(last):
    last.with_name(FILE).unlink()
    with pytest.raises(CheckpointError, match=rf"last\.ckpt holds what a captioner trained, and needs {FILE}"):
        atr.load(last)


def test_a_contrastive_checkpoint_holds_no_captioner(trained):
    with pytest.raises(CheckpointError, match=r"holds no captioner; train one on it with `python train.py experiment"):
        load_captioner(read_checkpoint(trained))


def test_the_newest_of_captioning_runs_is_found(run):
    assert newest_checkpoint(run) == run / "run" / "checkpoints" / "last.ckpt"


def changed(last, key, value):
    """Writes another value of the configuration into a checkpoint."""
    content = torch.load(last, weights_only=True)
    config = OmegaConf.create(content["atr"]["config"])
    OmegaConf.update(config, key, value)
    content["atr"]["config"] = OmegaConf.to_yaml(config)
    torch.save(content, last)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("captioner.mapping._target_", "os.system", r"captioner.mapping is os.system; allowed: atr.models"),
        ("captioner.mapping.prefix_length", 30, r"30 places of the prefix and captions of 40 tokens make 70"),
        ("captioner.mapping.prefix_length", 5, r"holds another captioner: 4 tensors do not fit"),
        ("captioner.language_model.train", "lora", r"holds another captioner: 6 tensors do not fit"),
    ],
)
def test_settings_that_do_not_belong_to_the_tensors_are_refused(last, key, value, message):
    changed(last, key, value)
    with pytest.raises(CheckpointError, match=message):
        atr.load(last)


def test_frozen_weights_of_another_run_are_refused(last, trained):
    tensors = load_file(last.with_name(FILE))
    tensors["clap.audio_projection.0.bias"] += 1e-4
    write_frozen(tensors, last.parent)
    with pytest.raises(CheckpointError, match="holds other weights"):
        atr.load(last)


def test_a_mapping_within_a_mapping_is_not_built(last, tmp_path):
    """What stands in a checkpoint's settings is never called."""
    made = tmp_path / "made"
    changed(last, "captioner.mapping.prefix_length", {"_target_": "pathlib.Path.touch", "self": str(made)})
    with pytest.raises(CheckpointError, match=r"captioner\.mapping\.prefix_length is .*; allowed: a number"):
        atr.load(last)
    assert not made.exists()
