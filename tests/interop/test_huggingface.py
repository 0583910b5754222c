"""Folders of `transformers`' CLAP: the same embeddings as there, and what is refused."""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ClapFeatureExtractor, ClapModel, CLIPConfig, CLIPModel, GPT2Config, GPT2Model

import atr
from atr.checkpoint import build_model, read_checkpoint
from atr.errors import CheckpointError
from atr.models import mapping
from atr.models.text import Tokenizer
from tests.interop.clap import (
    CAPTIONS,
    LOG_SCALE,
    audio_reference,
    random_clap,
    save,
    small_text,
    sounds,
    text_reference,
)

# The largest differences seen: audio 2.8e-7 plain and 7.5e-7 fused, text 3.0e-7; tiny and base are below these.
# What must fail is off by 2.3e-5 (eps in the text encoder), 1.7e-3 (queries and keys), 8.7e-3 (0 Hz) and 0.12 (scale).
AUDIO_TOLERANCE, TEXT_TOLERANCE = 5e-6, 2e-6


@dataclass
class Published:
    """A model, its folder, and its embeddings of `sounds()` and `CAPTIONS`."""

    model: ClapModel
    folder: Path
    audio: Tensor
    text: Tensor

    def differences(self, path: str | Path) -> tuple[float, float]:
        """The largest in audio and text embeddings of what `atr.load` makes of a file."""
        ours = atr.load(path)
        audio, text = ours.encode_audio(sounds()) - self.audio, ours.encode_text(CAPTIONS) - self.text
        return float(audio.abs().max()), float(text.abs().max())


def publish(model: ClapModel, tokenizer: Tokenizer, folder: Path) -> Published:
    truncation = "fusion" if model.config.audio_config.enable_fusion else "rand_trunc"
    heard = ClapFeatureExtractor(frequency_min=50, truncation=truncation)
    save(model, tokenizer, folder)
    return Published(model, folder, audio_reference(model, heard), text_reference(model, tokenizer))


@pytest.fixture(scope="module")
def plain(tokenizer, tmp_path_factory):
    return publish(random_clap(small_text(tokenizer)), tokenizer, tmp_path_factory.mktemp("clap") / "plain")


@pytest.fixture(scope="module")
def fused(tokenizer, tmp_path_factory):
    model = random_clap(small_text(tokenizer), fused=True)
    return publish(model, tokenizer, tmp_path_factory.mktemp("clap") / "fused")


@pytest.fixture(params=["plain", "fused"])
def published(request):
    """Each of the two."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def folder(plain, tmp_path) -> Path:
    """A copy of the plain one's folder, to change."""
    shutil.copytree(plain.folder, tmp_path / "clap")
    return tmp_path / "clap"


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def heard(folder: Path) -> Path:
    """Where transformers writes the feature extractor's settings: an older and a newer place."""
    older = folder / "preprocessor_config.json"
    return older if older.is_file() else folder / "processor_config.json"


def test_embeddings_are_those_of_transformers(published):
    audio, text = published.differences(published.folder)
    print(f"largest difference: audio {audio:.1e}, text {text:.1e}")
    assert audio < AUDIO_TOLERANCE and text < TEXT_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_embeddings_are_those_of_transformers_in_the_released_sizes(size, fused, tokenizer, tmp_path):
    text = {"vocab_size": 50_265, "pad_token_id": tokenizer.inner.pad_token_id}
    model = random_clap(text, size, fused, dim=512)
    audio, words = publish(model, tokenizer, tmp_path / "clap").differences(tmp_path / "clap")
    print(f"largest difference, {size}, {'fused' if fused else 'plain'}: audio {audio:.1e}, text {words:.1e}")
    assert audio < AUDIO_TOLERANCE and words < TEXT_TOLERANCE


@pytest.mark.parametrize("wrong", ["order of queries and keys", "frequency_min", "scale of the mels", "eps"])
def test_what_would_be_another_model_gives_other_embeddings(plain, folder, monkeypatch, wrong):
    """Controls of the test above."""
    if wrong == "order of queries and keys":
        monkeypatch.setattr(mapping, "QKV", ("key", "query", "value"))
    elif wrong == "frequency_min":
        edit(heard(folder), lambda content: content.get("feature_extractor", content).update(frequency_min=0))
    elif wrong == "scale of the mels":
        from atr.interop import huggingface

        real = huggingface.front_end
        monkeypatch.setattr(huggingface, "front_end", lambda fused, **other: real(fused=not fused, **other))
    else:
        edit(folder / "config.json", lambda content: content["text_config"].update(layer_norm_eps=1e-5))
    audio, text = plain.differences(folder)
    print(f"largest difference, {wrong}: audio {audio:.1e}, text {text:.1e}")
    assert text > 5 * TEXT_TOLERANCE if wrong == "eps" else audio > 100 * AUDIO_TOLERANCE


def test_the_checkpoint_says_what_it_is(published, tokenizer):
    checkpoint = read_checkpoint(published.folder)
    assert checkpoint.log_scale == pytest.approx(LOG_SCALE) and checkpoint.step == 0
    about, fused = checkpoint.about, published.model.config.audio_config.enable_fusion
    assert about["format"] == "huggingface" and about["labels"] == [] and about["data"] == {}
    assert about["text_config"]["layer_norm_eps"] == 1e-12 and about["tokenizer"].keys() == tokenizer.files().keys()
    config = checkpoint.config.model
    assert config.mel.frequency_min == 50.0 and config.dim == 32 and config.text.tokenizer.max_tokens == 77
    assert config.audio.get("fusion") is (True if fused else None)
    assert config.mel.get("mel_scale") == ("htk" if fused else None)
    assert build_model(checkpoint).state_dict().keys() == checkpoint.weights.keys()


def test_a_pickled_file_of_tensors_is_read_as_one(plain, folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert max(plain.differences(folder)) < AUDIO_TOLERANCE


def test_a_name_on_the_hub_is_looked_up_there(plain, tmp_path, monkeypatch):
    """Offline, from a cache such as a download leaves it."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--laion--clap-htsat-small"
    shutil.copytree(plain.folder, place / "snapshots" / revision)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert max(plain.differences("laion/clap-htsat-small")) < AUDIO_TOLERANCE
    checkpoint = read_checkpoint("laion/clap-htsat-small")
    assert str(checkpoint.path) == "laion/clap-htsat-small" and checkpoint.about["revision"] == revision
    with pytest.raises(CheckpointError, match=r"laion/clap-htsat-none is no file or folder here, and no model of that"):
        atr.load("laion/clap-htsat-none")


def test_without_its_preprocessor_file_the_front_end_is_laions_and_that_is_said(plain, folder):
    heard(folder).unlink()
    with pytest.warns(UserWarning, match=r"no preprocessor_config\.json: LAION's front end is taken .* begins at 0 Hz"):
        assert max(plain.differences(folder)) < AUDIO_TOLERANCE


def test_another_way_to_fill_short_clips_is_said(folder):
    edit(heard(folder), lambda content: content.get("feature_extractor", content).update(padding="repeat"))
    with pytest.warns(UserWarning, match=r"fills short clips by 'repeat', atr by 'repeatpad': their embeddings differ"):
        read_checkpoint(folder)


def test_a_feature_extractor_of_the_other_kind_is_refused(published, tmp_path):
    fused = published.model.config.audio_config.enable_fusion
    shutil.copytree(published.folder, tmp_path / "clap")
    other = "rand_trunc" if fused else "fusion"
    edit(heard(tmp_path / "clap"), lambda content: content.get("feature_extractor", content).update(truncation=other))
    with pytest.raises(CheckpointError, match=rf"truncation is '{other}', but the model's enable_fusion is {fused}"):
        atr.load(tmp_path / "clap")


@pytest.mark.parametrize(
    ("key", "value"),
    [("patch_size", 2), ("qkv_bias", False), ("mlp_ratio", 2.0), ("layer_norm_eps", 1e-6), ("hidden_act", "relu"),
     ("fusion_type", "channel_map"), ("enable_patch_layer_norm", False)],
)  # fmt: skip
def test_what_the_audio_encoder_cannot_compute_is_refused(folder, key, value):
    edit(folder / "config.json", lambda content: content["audio_config"].update({key: value}))
    with pytest.raises(CheckpointError, match=rf"audio_config\.{key} is {value!r}; atr's audio encoder has "):
        atr.load(folder)


def test_projections_with_another_activation_are_refused(folder):
    edit(folder / "config.json", lambda content: content.update(projection_hidden_act="gelu"))
    with pytest.raises(CheckpointError, match="projection_hidden_act is 'gelu'"):
        atr.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"audio_model.extra.weight": torch.zeros(1)},
         r"1 of its tensors have no place in atr's model \(first: audio_model\.extra\.weight\)"),
        (lambda state: {k: v for k, v in state.items() if not k.endswith("encoder.norm.weight")},
         r"1 tensors missing, 0 left over, 0 of another shape \(first: audio\.norm\.weight\).*get the file again"),
        (lambda state: {k: v for k, v in state.items() if "attention.self.key.weight" not in k},
         r"7 tensors missing, 10 left over, 0 of another shape \(first: audio\.layers\.0\.blocks\.0\.attn\.qkv"),
        (lambda state: {k: v for k, v in state.items() if not k.startswith("audio_projection")},
         r"audio_projection\.2\.weight is missing among its"),
        (lambda state: state | {"audio_model.audio_encoder.norm.bias": torch.zeros(3)}, r"1 of another shape"),
    ],
    ids=["left over", "missing", "no keys", "no projection", "shape"],
)  # fmt: skip
def test_weights_that_are_not_its_own_are_refused(folder, change, message):
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        atr.load(folder)


def test_files_that_are_cut_off_or_not_there_are_refused(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for share in (0.0, 0.001, 0.5, 0.999):
        (folder / "model.safetensors").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match=r"model\.safetensors \(\d+ bytes\) is cut off or no safetensors"):
            atr.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        atr.load(folder)
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"its tokenizer cannot be read; tokenizer\.json, or vocab\.json and"):
        atr.load(folder)
    (folder / "config.json").write_text('{"model_type": "cl')
    with pytest.raises(CheckpointError, match=r"config\.json is no json file, or cut off"):
        atr.load(folder)
    (folder / "config.json").write_text('{"model_type": "clap", "audio_config": {"depths": "deep"}}')
    with pytest.raises(CheckpointError, match=r"config\.json is not of a CLAP"):
        atr.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"is a folder without config\.json, so it is not a model of trans"):
        atr.load(folder)


def test_a_folder_of_another_model_is_refused_by_its_type(tmp_path):
    small = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 32}
    GPT2Model(GPT2Config(**small)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(CheckpointError, match=r"gpt2 holds a model of type 'gpt2', not a CLAP\. Give a folder"):
        atr.load(tmp_path / "gpt2")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPModel(CLIPConfig(text_config=size, vision_config=size)).save_pretrained(tmp_path / "clip")
    with pytest.raises(CheckpointError, match=r"holds a model of type 'clip', not a CLAP"):
        atr.load(tmp_path / "clip")
    with pytest.raises(CheckpointError, match=r"no `atr` entry of format 1; of a Hugging Face model give the whole"):
        atr.load(tmp_path / "gpt2" / "model.safetensors")


def test_code_beside_a_model_is_not_run(plain, folder, tmp_path):
    """A tokenizer class of the folder's own, and a pickle that asks for a call."""
    trace = tmp_path / "executed"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: pass\n")
    edit(
        folder / "tokenizer_config.json",
        lambda content: content.update(auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, tokenizer_class="Evil"),
    )
    assert plain.differences(folder)[1] < TEXT_TOLERANCE and not trace.exists()  # what tokenizer.json says is used
    (folder / "model.safetensors").unlink()
    torch.save({"logit_scale_a": Bomb(trace)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=re.escape(f"it asks to run {os.open.__module__}.")):
        atr.load(folder)
    assert not trace.exists()


@pytest.mark.parametrize("key", ["hop_length", "sampling_rate", "feature_size", "max_length_s", "fft_window_size"])
def test_settings_that_would_call_something_when_they_are_read_are_refused(folder, tmp_path, key):
    """`${oc.create:…}` makes a node of a text, which Hydra would build as it builds the model."""
    trace = tmp_path / "executed"
    call = "${oc.create:{_target_:numpy.savetxt,_args_:[%s,[1]]}}" % trace  # noqa: UP031
    edit(heard(folder), lambda content: content.get("feature_extractor", content).update({key: call}))
    with pytest.raises(CheckpointError):
        atr.load(folder)
    assert not trace.exists()


def test_a_run_is_refused_with_the_names_of_its_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"give one of its checkpoints: checkpoints/last\.ckpt"):
        atr.load(tmp_path)


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.open, (str(self.target), os.O_CREAT)


def test_a_tokenizer_with_a_lower_limit_keeps_it(published, tmp_path):
    folder = shutil.copytree(published.folder, tmp_path / "clap")
    edit(folder / "tokenizer_config.json", lambda content: content.update(model_max_length=20))
    assert build_model(read_checkpoint(folder)).text.tokenizer.max_tokens == 20


def test_a_logit_scale_of_several_numbers_is_refused(published, tmp_path):
    folder = shutil.copytree(published.folder, tmp_path / "clap")
    save_file(load_file(folder / "model.safetensors") | {"logit_scale_a": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"logit_scale_a has the shape \(2,\) instead of one number"):
        read_checkpoint(folder)
