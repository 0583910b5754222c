"""Training that begins with a released model: what is loaded, and what is refused with the overrides that help."""

import json
import shutil

import huggingface_hub.constants
import pytest
import torch

from atr.checkpoint import read_checkpoint
from atr.config import compose_config
from atr.errors import CheckpointError
from atr.evaluation.verbs import classify, retrieve
from atr.experiment import train
from atr.initialise import initial_model, line
from atr.interop import released
from atr.models.text import Tokenizer
from tests.conftest import ROOT
from tests.interop.clap import random_clap, save
from tests.interop.test_laion import alone, written

SMALL = [
    "experiment=finetune_clotho", "model.audio.embed_dim=16", "model.audio.depths=[1,1,2,1]",
    "model.audio.heads=[2,2,4,8]", "model.dim=32",
]  # fmt: skip
TEXT = [
    "model/text=roberta_demo", "model.text.pooling=pooler", "model.text.config.hidden_size=128",
    "model.text.config.num_attention_heads=2", "model.text.config.intermediate_size=96",
    "model.text.config.num_hidden_layers=2", "model.text.config.hidden_dropout_prob=0.1",
    "model.text.config.attention_probs_dropout_prob=0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(tokenizer, tmp_path_factory):
    """`hf/`, `clap.pt` and `tokenizer/` of one model."""
    return written(tmp_path_factory.mktemp("released"), tokenizer, fused=False)


@pytest.fixture(scope="module")
def fused(tokenizer, tmp_path_factory):
    return written(tmp_path_factory.mktemp("released"), tokenizer, fused=True)


@pytest.fixture
def as_base(monkeypatch, plain):
    """The small text encoder goes by the name of roberta-base, as the released models' does."""
    text = read_checkpoint(plain / "clap.pt").about["text_config"]
    monkeypatch.setattr(released, "ROBERTA_BASE", {key: text[key] for key in released.ROBERTA_BASE})


def start(init, *overrides):
    return initial_model(compose_config([*SMALL, *overrides, f"init={init}"]))


def same_as(model, weights, towers):
    own = model.state_dict()
    names = [name for name in own if name.startswith(towers)]
    return len(names) > 0 and all(torch.equal(own[name], weights[name]) for name in names)


def test_a_folder_of_transformers_is_a_start_with_one_line_and_nothing_is_fetched(plain, as_base):
    """The configuration has roberta-base by name, which cannot be had offline."""
    model, towers = start(plain / "hf")
    assert same_as(model, read_checkpoint(plain / "hf").weights, ("audio", "text")) and model.training
    said = [line(name, towers[name]) for name in ("audio", "text", "audio_projection", "text_projection")]
    totals = [len(model.get_submodule(name).state_dict()) for name in ("audio", "text")]
    assert said[0] == f"audio: {totals[0]} of {totals[0]} tensors from {plain / 'hf'}"
    assert said[1] == f"text: {totals[1]} of {totals[1]} tensors from {plain / 'hf'}"
    assert said[2].startswith("audio_projection: 4 of 4") and said[3].startswith("text_projection: 4 of 4")
    assert model.text.inner.config.layer_norm_eps == 1e-5  # the checkpoint's


def test_laions_file_is_a_start_with_the_tokenizer_of_the_run(plain, as_base):
    model, towers = start(plain / "clap.pt", f"model.text.tokenizer.path={plain / 'tokenizer'}")
    assert same_as(model, read_checkpoint(plain / "clap.pt").weights, ("audio", "text"))
    assert towers["text"].share == towers["audio"].share == 1.0
    with pytest.raises(CheckpointError, match=r"carries no tokenizer.* model\.text\.tokenizer\.path=FOLDER"):
        start(plain / "clap.pt")  # roberta-base's is not to be had offline


def test_a_text_encoder_of_the_same_settings_is_the_same(plain):
    model, _ = start(plain / "hf", *TEXT)
    assert same_as(model, read_checkpoint(plain / "hf").weights, ("audio", "text"))
    with pytest.raises(CheckpointError, match=r"another text encoder: model\.text\.config was .*=128$"):
        start(plain / "hf", *TEXT, "model.text.config.hidden_size=64")


def test_a_local_folder_of_the_same_text_encoder_is_the_same(plain, as_base, tmp_path):
    folder = tmp_path / "roberta"
    shutil.copytree(plain / "tokenizer", folder)
    text = read_checkpoint(plain / "clap.pt").about["text_config"]
    (folder / "config.json").write_text(json.dumps(text))
    name = [f"model.text.name={folder}"]
    model, _ = start(plain / "hf", *name)
    assert same_as(model, read_checkpoint(plain / "hf").weights, ("text",))
    (folder / "config.json").write_text(json.dumps(text | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"roberta has num_hidden_layers 3, it has 2"):
        start(plain / "hf", *name)


def test_an_audio_encoder_alone_fills_the_audio_tower_and_the_others_are_random(plain, tmp_path):
    model, towers = start(alone(plain, tmp_path), *TEXT)
    assert same_as(model, read_checkpoint(plain / "clap.pt").weights, ("audio.",))
    assert [line(name, towers[name]) for name in ("mel", "text", "audio_projection", "text_projection")] == [
        "mel: no weights", "text: random", "audio_projection: random", "text_projection: random",
    ]  # fmt: skip
    assert line("audio", towers["audio"]).startswith(f"audio: {towers['audio'].total} of {towers['audio'].total} tens")
    _, again = start(alone(plain, tmp_path), *TEXT, "init_share=0.5")
    assert again["audio"].share == 1.0 and not again["text"].source
    with pytest.raises(CheckpointError, match=r"another architecture: .*Add to the command: \+\+model\.audio\.heads="):
        start(alone(plain, tmp_path), *TEXT, "model.audio.heads=[4,4,4,8]")


def test_a_model_with_fusion_names_the_overrides_of_fusion(fused, as_base):
    with pytest.raises(
        CheckpointError,
        match=r"other log-mels \(mel_scale was htk, and is slaney now\).*fusion=true model/mel=clap_48k_htk",
    ):
        start(fused / "hf")
    with pytest.raises(
        CheckpointError, match=r"another architecture: .*Add to the command: \+\+model\.audio\.fusion=true"
    ):
        start(fused / "hf", "model/mel=clap_48k_htk")
    model, _ = start(fused / "hf", "model/mel=clap_48k_htk", "++model.audio.fusion=true")
    assert same_as(model, read_checkpoint(fused / "hf").weights, ("audio", "text"))


def test_another_size_is_refused_with_its_override(plain, as_base):
    with pytest.raises(CheckpointError, match=r"of another shape .*Add to the command: \+\+model\.audio\.embed_dim=16"):
        start(plain / "hf", "model.audio.embed_dim=32")
    with pytest.raises(CheckpointError, match=r"Add to the command: model\.dim=32"):
        start(plain / "hf", "model.dim=64")


def test_a_run_trains_from_a_released_model_and_says_so(plain, tiny, shards, capsys):
    mel = ["sample_rate=48000", "hop=480", "n_fft=1024", "n_mels=64", "frequency_max=14000"]  # of clips of 1 s
    small = [*SMALL[1:], *TEXT, *(f"model.mel.{one}" for one in mel), "model.audio.picture_size=256"]
    cfg = tiny(*small, f"init={plain / 'hf'}", "trainer.max_epochs=1", "data.test=null")
    train(cfg)
    said = capsys.readouterr().out
    assert f"tensors from {plain / 'hf'}\n" in said and "audio: random" not in said
    assert read_checkpoint(tiny.run_dir / "checkpoints" / "last.ckpt").config.model.mel.frequency_min == 50.0


def test_a_released_model_is_evaluated_on_shards(plain, shards):
    found = retrieve(plain / "hf", [str(shards)]).results[0]
    assert found.protocol.settings["t2a/candidates"] == 16
    assert classify(plain / "hf", [str(shards)]).results[0].protocol.clips == 16


@pytest.mark.slow
def test_the_released_names_need_nothing_else(tmp_path, monkeypatch):
    """`init=laion/clap-htsat-unfused experiment=finetune_clotho`, in full size, from a cache of the hub."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--laion--clap-htsat-unfused"
    text = {"vocab_size": 50_265}
    save(random_clap(text, "tiny", dim=512), as_large_as_roberta_base(tmp_path), place / "snapshots" / revision)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    cfg = compose_config(["experiment=finetune_clotho", "init=laion/clap-htsat-unfused"])
    model, towers = initial_model(cfg)
    assert line("text", towers["text"]) == "text: 199 of 199 tensors from laion/clap-htsat-unfused"
    assert same_as(model, read_checkpoint("laion/clap-htsat-unfused").weights, ("audio", "text"))
    with pytest.raises(CheckpointError, match="Add to the command: model/audio=htsat_tiny"):
        initial_model(compose_config([*SMALL, "init=laion/clap-htsat-unfused"]))


def as_large_as_roberta_base(folder) -> Tokenizer:
    """The demo's tokenizer with made-up words to 50 265."""
    shutil.copytree(ROOT / "data" / "tokenizer", folder / "large")
    content = json.loads((folder / "large" / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words |= {f"made-up-{number}": number for number in range(len(Tokenizer(str(folder / "large"))), 50_265)}
    (folder / "large" / "tokenizer.json").write_text(json.dumps(content))
    return Tokenizer(str(folder / "large"))
