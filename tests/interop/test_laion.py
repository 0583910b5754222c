"""LAION's `.pt` and audio encoders alone: written here under LAION's names by hand, read by `atr.load` and `init`."""

import re

import numpy as np
import pytest
import torch
from librosa.filters import mel
from torch import Tensor

import atr
from atr.checkpoint import build_model, read_checkpoint
from atr.errors import CheckpointError, UsageError
from atr.models.mapping import to_laion
from tests.interop.clap import CAPTIONS, LOG_SCALE, random_clap, save, small_text, sounds

TOLERANCE = 1e-7  # the same function with the same weights


def to_laion_by_hand(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of `ClapModel` -> LAION's: LAION-AI/CLAP at 1fd4c37, `clap_module/htsat.py` and `model.py`."""
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.replace("audio_model.audio_encoder.", "audio_branch.").replace("text_model.", "text_branch.")
        if re.match(r"audio_branch\..*\.attention\.self\.(key|value)\.", name):
            continue
        if name.startswith("audio_branch.") and ".attention.self.query." in name:
            value = torch.cat([state[key.replace("query", part)] for part in ("query", "key", "value")])
        if name.startswith("audio_branch."):
            for theirs, laions in (
                ("batch_norm", "bn0"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
                ("attention.self.query", "attn.qkv"), ("attention.self", "attn"),
                ("attention.output.dense", "attn.proj"),
                ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
            ):  # fmt: skip
                name = name.replace(theirs, laions)
        name = name.replace("projection.linear1", "projection.0").replace("projection.linear2", "projection.2")
        named[name] = value
    return named


def filterbank(rate: int = 48_000, lowest: float = 50.0) -> Tensor:
    return torch.from_numpy(mel(sr=rate, n_fft=1024, n_mels=64, fmin=lowest, fmax=14_000).T.copy())


def only_there(width: int) -> dict[str, Tensor]:
    """What LAION's files hold beside the weights, in small."""
    return {
        "audio_branch.spectrogram_extractor.stft.conv_real.weight": torch.zeros(513, 1, 4),
        "audio_branch.spectrogram_extractor.stft.conv_imag.weight": torch.zeros(513, 1, 4),
        "audio_branch.logmel_extractor.melW": filterbank(),
        "audio_branch.tscam_conv.weight": torch.zeros(527, width, 2, 3),
        "audio_branch.tscam_conv.bias": torch.zeros(527),
        "audio_branch.head.weight": torch.zeros(527, 527),
        "audio_branch.head.bias": torch.zeros(527),
        "audio_branch.layers.0.blocks.1.attn_mask": torch.zeros(64, 64, 64),
        "audio_transform.sequential.0.weight": torch.zeros(4, 4),
        "text_transform.sequential.3.bias": torch.zeros(4),
        "text_branch.embeddings.position_ids": torch.arange(80).unsqueeze(0),
    }


@pytest.fixture(scope="module")
def plain(tokenizer, tmp_path_factory):
    """A folder with one model as a folder of transformers and as LAION's file, and its tokenizer."""
    return written(tmp_path_factory.mktemp("laion"), tokenizer, fused=False)


@pytest.fixture(scope="module")
def fused(tokenizer, tmp_path_factory):
    """The same with fusion."""
    return written(tmp_path_factory.mktemp("laion"), tokenizer, fused=True)


@pytest.fixture(params=["plain", "fused"])
def both(request):
    """Each of the two."""
    return request.getfixturevalue(request.param)


def written(folder, tokenizer, fused):
    text = small_text(tokenizer, hidden_size=128, num_attention_heads=2, layer_norm_eps=1e-5)
    model = random_clap(text, fused=fused)
    save(model, tokenizer, folder / "hf")
    write(folder / "clap.pt", to_laion_by_hand(model.state_dict()) | only_there(128))
    tokenizer.inner.save_pretrained(folder / "tokenizer")
    return folder


def write(path, state, prefix="module."):
    content = {"epoch": 3, "name": "clap", "state_dict": {prefix + key: value for key, value in state.items()}}
    torch.save(content | {"best": np.float64(0.5), "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}}, path)
    return path


def changed(both, tmp_path, change):
    state = torch.load(both / "clap.pt", weights_only=False)["state_dict"]
    return write(tmp_path / "changed.pt", change({key.removeprefix("module."): v for key, v in state.items()}))


def load(path, folder):
    return atr.load(path, tokenizer=folder / "tokenizer")


def test_embeddings_are_those_of_the_same_weights_under_other_names(both):
    one, other = load(both / "clap.pt", both), atr.load(both / "hf")
    assert (one.encode_audio(sounds()) - other.encode_audio(sounds())).abs().max() < TOLERANCE
    assert (one.encode_text(CAPTIONS) - other.encode_text(CAPTIONS)).abs().max() < TOLERANCE


def test_queries_and_keys_exchanged_give_other_embeddings(plain, tmp_path):
    """Control of the test above."""

    def exchange(state):
        def turned(value):
            query, key, rest = value.chunk(3)
            return torch.cat([key, query, rest])

        return {key: turned(value) if ".attn.qkv." in key else value for key, value in state.items()}

    one, other = load(changed(plain, tmp_path, exchange), plain), atr.load(plain / "hf")
    assert (one.encode_audio(sounds()) - other.encode_audio(sounds())).abs().max() > 1e-3


def test_names_go_back_as_they_came(both):
    state = torch.load(both / "clap.pt", weights_only=False)["state_dict"]
    back = to_laion(read_checkpoint(both / "clap.pt").weights)
    assert back.keys() < state.keys() and all(torch.equal(value, state[key]) for key, value in back.items())
    assert "module.audio_branch.layers.0.downsample.reduction.weight" in back
    left = {key.split(".")[2] for key in state.keys() - back.keys() if ".layers." not in key and "branch" in key}
    assert left == {"spectrogram_extractor", "logmel_extractor", "tscam_conv", "head", "embeddings"} - {""}


def test_the_checkpoint_says_what_it_is(both):
    checkpoint = read_checkpoint(both / "clap.pt")
    fused = "audio.fusion.local_att.0.weight" in checkpoint.weights
    assert checkpoint.about["format"] == "laion" and checkpoint.log_scale == pytest.approx(LOG_SCALE)
    assert checkpoint.config.model.audio.get("fusion", False) is fused
    assert checkpoint.config.model.mel.get("mel_scale", "slaney") == ("htk" if fused else "slaney")
    audio, text = checkpoint.config.model.audio, checkpoint.about["text_config"]
    assert (audio.embed_dim, list(audio.depths), list(audio.heads), audio.window) == (16, [1, 1, 2, 1], [2, 2, 4, 8], 8)
    assert text["layer_norm_eps"] == 1e-5 and text["num_attention_heads"] == 2 and checkpoint.config.model.dim == 32


def test_a_missing_or_wrong_tokenizer_is_refused_with_the_way_out(plain):
    with pytest.raises(CheckpointError, match=r"carries no tokenizer\. Give a folder with roberta-base's .*tokenizer="):
        atr.load(plain / "clap.pt", tokenizer=plain / "none")
    with pytest.raises(
        CheckpointError, match=r"carries no tokenizer.*model\.text\.tokenizer\.path=FOLDER for training"
    ):
        atr.load(plain / "clap.pt", tokenizer="roberta-base")  # offline
    with pytest.raises(UsageError, match="brings its own tokenizer; leave tokenizer="):
        atr.load(plain / "hf", tokenizer=plain / "tokenizer")


def test_a_tokenizer_of_another_size_is_refused(plain, tmp_path):
    inner = atr.load(plain / "hf").clap.text.tokenizer.inner
    inner.add_tokens(["another"])
    inner.save_pretrained(tmp_path / "larger")
    with pytest.raises(CheckpointError, match=r"larger has \d+ tokens, the text encoder \d+"):
        atr.load(plain / "clap.pt", tokenizer=tmp_path / "larger")


@pytest.mark.parametrize("other", [filterbank(44_100), filterbank(lowest=0.0), torch.zeros(513, 32)])
def test_another_filterbank_is_refused(plain, tmp_path, other):
    path = changed(plain, tmp_path, lambda state: state | {"audio_branch.logmel_extractor.melW": other})
    with pytest.raises(CheckpointError, match=r"its mel filterbank \(logmel_extractor\.melW, .*is not the one of 64"):
        load(path, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"audio_branch.conv_block1.conv1.weight": torch.zeros(1)},
         r"1 of its tensors have no place in atr's model \(first: audio_branch\.conv_block1\.conv1\.weight\)"),
        (lambda state: state | {"text_branch.embeddings.token_type_embeddings.weight": torch.zeros(2, 128)},
         r"its text encoder is no RoBERTa \(2 kinds of tokens"),
        (lambda state: {k: v for k, v in state.items() if not k.startswith("audio_branch.patch_embed.proj")},
         r"holds no whole HTSAT and RoBERTa: 'audio\.patch_embed\.weight' is missing"),
        (lambda state: {k: v for k, v in state.items() if ".norm2." not in k}, r"10 tensors missing, 0 left over"),
        (lambda state: {k: v for k, v in state.items() if not k.startswith("text_")}, r"holds an audio encoder alone"),
    ],
    ids=["other encoder", "BERT", "no patches", "missing", "no text"],
)  # fmt: skip
def test_another_architecture_is_refused(plain, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        load(changed(plain, tmp_path, change), plain)


def test_what_is_no_clap_is_refused_by_what_it_holds(tmp_path):
    torch.save({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"net\.pt is not a checkpoint of atr .*2 entries, the first is 'conv1"):
        atr.load(tmp_path / "net.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"or HTSAT: it holds a list"):
        atr.load(tmp_path / "list.pt")


def test_half_a_file_is_refused(plain, tmp_path):
    whole = (plain / "clap.pt").read_bytes()
    for share in (0.1, 0.9, 0.999):
        (tmp_path / "half.pt").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match=r"half\.pt is not a checkpoint of atr \(\d+ bytes\): it is cut off"):
            atr.load(tmp_path / "half.pt")


def test_the_numbers_of_numpy_are_read_and_nothing_else(plain, tmp_path):
    content = torch.load(plain / "clap.pt", weights_only=False)
    torch.save(content | {"best": np.arange(3)}, tmp_path / "array.pt")
    with pytest.raises(CheckpointError, match=r"it asks to run numpy\S+_reconstruct, which was not done"):
        read_checkpoint(tmp_path / "array.pt")


def alone(both, tmp_path, rate=32_000):
    """An audio encoder as HTS-Audio-Transformer saves it, with Lightning."""
    state = torch.load(both / "clap.pt", weights_only=False)["state_dict"]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    state["audio_branch.logmel_extractor.melW"] = filterbank(rate)
    inner = {
        key.replace("audio_branch.", "sed_model."): value for key, value in state.items() if key.startswith("audio_b")
    }
    torch.save({"state_dict": inner, "epoch": 1, "pytorch-lightning_version": "1.5.9"}, tmp_path / "htsat.ckpt")
    return tmp_path / "htsat.ckpt"


def test_an_audio_encoder_alone_is_read_and_not_used_as_a_whole_model(plain, tmp_path):
    path = alone(plain, tmp_path)
    checkpoint, whole = read_checkpoint(path), read_checkpoint(plain / "clap.pt")
    assert checkpoint.weights.keys() == {key for key in whole.weights if key.startswith("audio.")}
    assert all(torch.equal(value, whole.weights[key]) for key, value in checkpoint.weights.items())
    assert checkpoint.about["format"] == "htsat" and checkpoint.log_scale is None
    assert (checkpoint.config.model.mel.sample_rate, checkpoint.config.model.mel.hop) == (32_000, 320)
    with pytest.raises(CheckpointError, match=r"holds an audio encoder alone, which knows no text\. Train .* init="):
        build_model(checkpoint)
