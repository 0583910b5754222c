"""First weights: what comes from where is counted and said, and too little of it stops the run before it begins."""

import json
import re
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from atr.checkpoint import describe, read_checkpoint
from atr.config import build
from atr.errors import CheckpointError, UsageError
from atr.experiment import train
from atr.initialise import initial_model, line
from atr.models.text import TextEncoder
from atr.types import Loaded
from tests.conftest import ROOT

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TRAINED = 8  # tensors of a tower below which a test would not tell much


@pytest.fixture
def trained(tiny, tmp_path):
    """A checkpoint of the tiny model, as a run would leave it behind."""
    cfg = tiny()
    OmegaConf.resolve(cfg)
    torch.manual_seed(7)
    return saved(build(cfg.model), cfg, tmp_path / "trained.ckpt")


def saved(model, cfg, path):
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "atr": describe(cfg, model, [], {})}, path)
    return path


def with_changed_weights(path, change):
    content = torch.load(path, weights_only=True)
    content["state_dict"] = change(content["state_dict"])
    torch.save(content, path.with_name("changed.ckpt"))
    return path.with_name("changed.ckpt")


def half_renamed(state):
    """Every second tensor of the audio encoder under the name that another code would give it."""
    own = [name for name in state if name.startswith("model.audio.")]
    new = {name: name.replace("model.audio.", "model.audio.backbone.") for name in own[::2]}
    return {new.get(name, name): value for name, value in state.items()}


def test_a_fresh_run_says_that_its_towers_are_random(tiny, capsys):
    train(tiny("trainer.max_epochs=1", "data.test=null"))
    said = capsys.readouterr().out
    assert "init        mel: no weights\n            audio: random\n            text: random\n" in said
    assert "audio_projection: random" in said
    assert json.loads((tiny.run_dir / "init.json").read_text())["audio"]["loaded"] == 0


def test_a_checkpoint_with_half_the_tensors_renamed_is_refused_and_said_at_a_lower_share(tiny, trained, capsys):
    path = with_changed_weights(trained, half_renamed)
    with pytest.raises(
        CheckpointError, match=r"another architecture: \d+ tensors missing, \d+ left over, 0 of another"
    ):
        train(tiny(f"init={path}"))
    with pytest.raises(
        CheckpointError, match=r"0\.49 of the tensors of audio fit, init_share=0\.6 is asked for \(audio: "
    ):
        train(tiny(f"init={path}", "init_share=0.6"))
    assert not (tiny.run_dir / "checkpoints").exists()
    capsys.readouterr()
    train(tiny(f"init={path}", "init_share=0.4", "trainer.max_epochs=1", "data.test=null"))
    said = capsys.readouterr().out
    pattern = r" audio: (\d+) of (\d+) tensors from \S+; not there: .*, … \((\d+)\); left over: backbone.* \((\d+)\)\n"
    loaded, total, missing, left = map(int, re.search(pattern, said).groups())
    assert loaded + missing == total >= TRAINED and missing == left == total - total // 2
    assert re.search(r" text: (\d+) of \1 tensors from", said)
    full = json.loads((tiny.run_dir / "init.json").read_text())["audio"]
    assert len(full["missing"]) == missing and len(full["left_over"]) == left


def test_what_fits_is_loaded_and_what_has_another_shape_is_not(tiny, trained):
    cfg = tiny(f"init={trained}", "init_share=0", "model.dim=16")
    torch.manual_seed(1)
    model, towers = initial_model(cfg)
    before, own = read_checkpoint(trained).weights, model.state_dict()
    assert towers["audio_projection"].unfit == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(torch.equal(own[name], before[name]) for name in own if name.startswith(("audio.", "text.")))
    assert own["audio_projection.0.weight"].shape == (16, 64) and model.training
    with pytest.raises(CheckpointError, match="0 tensors missing, 0 left over, 8 of another shape"):
        initial_model(tiny(f"init={trained}", "model.dim=16"))


def test_a_part_that_is_not_loaded_starts_as_a_fresh_one(tiny, trained):
    """Control of the test above: without `init` nothing equals the checkpoint."""
    model, towers = initial_model(tiny())
    before, own = read_checkpoint(trained).weights, model.state_dict()
    assert not towers["audio"].source
    assert not any(torch.equal(own[name], before[name]) for name in own if name.endswith("dense.weight"))


def test_init_with_another_vocabulary_is_refused_and_its_words_are_not_taken(tiny, trained, tmp_path):
    """The shapes are the same: only the tokenizer tells that row 300 stands for another word."""
    other = other_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match=r"another text encoder: the vocabulary of model\.text\.tokenizer\.path="):
        initial_model(tiny(f"init={trained}", f"model.text.tokenizer.path={other}"))
    model, towers = initial_model(tiny(f"init={trained}", f"model.text.tokenizer.path={other}", "init_share=0.5"))
    assert towers["text"].unfit == ["inner.embeddings.word_embeddings.weight"] and not towers["text"].missing
    before, own = read_checkpoint(trained).weights, model.state_dict()
    same = {name for name in own if name.startswith("text.") and torch.equal(own[name], before[name])}
    assert len(same) == towers["text"].loaded and "text.inner.embeddings.word_embeddings.weight" not in same
    assert towers["audio"].share == 1.0


def other_tokenizer(tmp_path):
    """As many tokens as the demo's, two of them exchanged."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for path in (ROOT / "data" / "tokenizer").iterdir():
        (folder / path.name).write_text(path.read_text())
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_init_with_another_text_encoder_is_refused_and_not_silently_replaced(tiny, trained):
    with pytest.raises(CheckpointError, match=r"text encoder: model\.text\.config was .* Choose the one it was"):
        initial_model(tiny(f"init={trained}", "model.text.config.hidden_size=64"))


def published(folder, tokenizer, kind=RobertaForMaskedLM, change=None):
    """A masked language model as it is published: without a pooler, with its head."""
    config = RobertaConfig if kind is RobertaForMaskedLM else BertConfig
    kind(config(vocab_size=len(tokenizer), max_position_embeddings=80, **SIZES)).save_pretrained(folder)
    tokenizer.inner.save_pretrained(folder)
    if change is not None:
        weights = change(load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def with_text(tiny, name, *overrides):
    cfg = tiny("~model.text.config", f"+model.text.name={name}", f"model.text.tokenizer.path={name}", *overrides)
    cfg.model.text.pooling = "pooler" if "pooling" not in str(overrides) else cfg.model.text.pooling
    return cfg


def test_published_weights_without_a_pooler_start_at_the_default_and_say_so(tiny, tokenizer, tmp_path):
    name = published(tmp_path / "roberta", tokenizer)
    model, towers = initial_model(with_text(tiny, name))
    total = len(model.text.inner.state_dict())
    said = line("text", towers["text"])
    assert said.startswith(f"text: {total - 2} of {total} tensors from {name}; not there: pooler.dense.bias, pooler")
    assert "left over: lm_head" in said and towers["text"].share == 1.0 and towers["audio"].source == ""
    mean, towers = initial_model(with_text(tiny, name, "model.text.pooling=mean"))
    assert towers["text"].loaded == towers["text"].total == total - 2 == len(mean.text.inner.state_dict())


def without_half(weights):
    return {name: value for name, value in weights.items() if "attention" not in name}


def with_a_wrong_shape(weights):
    name = next(name for name in weights if name.endswith("layer.0.intermediate.dense.weight"))
    return weights | {name: weights[name][:16].clone()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_half, r"10 of its weights are not in the file \(first: encoder\.layer\.0\.attention"),
        (with_a_wrong_shape, r"1 have another shape \(first: encoder\.layer\.0\.intermediate\.dense\.weight"),
    ],
)
def test_published_weights_that_fit_badly_are_refused_or_counted(tiny, tokenizer, tmp_path, change, message):
    name = published(tmp_path / "roberta", tokenizer, change=change)
    with pytest.raises(UsageError, match=message + r".* init_share=1 is asked for\. Give the folder"):
        initial_model(with_text(tiny, name))
    _, towers = initial_model(with_text(tiny, name, "init_share=0.3"))
    text = towers["text"]
    assert text.total - text.loaded - 2 == len(text.unfit) + len(text.missing) - 2 > 0 and text.share < 1.0


def test_a_cut_off_safetensors_file_is_refused(tokenizer, tmp_path):
    name = published(tmp_path / "roberta", tokenizer)
    whole = (tmp_path / "roberta" / "model.safetensors").read_bytes()
    for share in (0.001, 0.5, 0.999):
        (tmp_path / "roberta" / "model.safetensors").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UsageError, match=r"text encoder .* cannot be loaded; give a folder with config\.json"):
            TextEncoder(tokenizer, name=name)


def test_init_fetches_no_published_weights_that_it_replaces(tiny, tokenizer, tmp_path):
    """The folder of the published weights is gone when the checkpoint is used."""
    name = published(tmp_path / "bert", tokenizer, BertForMaskedLM)
    cfg = with_text(tiny, name)
    OmegaConf.resolve(cfg)
    model = build(cfg.model)
    path = saved(model, cfg, tmp_path / "trained.ckpt")
    shutil.rmtree(tmp_path / "bert")
    with pytest.raises(UsageError, match="cannot be loaded"):
        initial_model(with_text(tiny, name))
    again, towers = initial_model(with_text(tiny, name, f"init={path}"))
    assert again.state_dict().keys() == model.state_dict().keys() and towers["text"].share == 1.0
    assert towers["text"].source == str(path)


def test_another_text_encoder_keeps_its_published_weights_beside_an_audio_tower_from_init(
    tiny, trained, tokenizer, tmp_path
):
    name = published(tmp_path / "bert", tokenizer, BertForMaskedLM)
    _, towers = initial_model(with_text(tiny, name, f"init={trained}", "init_share=0.5"))
    assert towers["text"].source == name and towers["audio"].source == str(trained)
    assert towers["audio"].share == 1.0


def test_a_share_that_is_none_is_refused(tiny):
    with pytest.raises(UsageError, match=r"init_share is 1\.5; allowed: 0 to 1"):
        initial_model(tiny("init_share=1.5"))


def test_a_tower_of_nothing_has_its_whole_share():
    assert Loaded("x").share == 1.0 and Loaded("x", total=4, missing=["a"]).share == 0.75
