"""HTSAT against `transformers`' ClapAudioModel with random weights, and its own parts against slow versions."""

import pytest
import torch
from torch import Tensor
from transformers import ClapAudioConfig, ClapAudioModel

from atr.models.htsat import HTSAT, SpecAugment

SMALL = {"embed_dim": 32, "depths": [1, 1, 2, 1], "heads": [4, 8, 16, 32]}
SIZES = {"small": SMALL, "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "heads": [4, 8, 16, 32]}}


def pair(size: str) -> tuple[ClapAudioModel, HTSAT]:
    """The reference with random weights (norms and bias tables included), and ours with the same."""
    torch.manual_seed(0)
    shape = SIZES[size]
    config = ClapAudioConfig(
        patch_embeds_hidden_size=shape["embed_dim"], depths=shape["depths"], num_attention_heads=shape["heads"],
        hidden_size=shape["embed_dim"] * 8,
    )  # fmt: skip
    theirs = ClapAudioModel(config).eval()
    for name, parameter in theirs.named_parameters():
        scale = 0.2 if parameter.ndim < 2 or "bias_table" in name else 0.05
        parameter.data = torch.randn_like(parameter) * scale + (1.0 if "norm" in name and "weight" in name else 0.0)
    norm = theirs.audio_encoder.batch_norm
    norm.running_mean.uniform_(-40, -20)
    norm.running_var.uniform_(50, 150)
    ours = HTSAT(**shape).eval()
    ours.load_state_dict(translate(theirs.state_dict()))
    return theirs, ours


def translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`transformers`' names -> ours: q, k, v side by side, the merging of stage i at the start of stage i + 1."""
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("audio_encoder.")
        if name.endswith("relative_position_index"):
            continue
        if ".attention.self.key." in name or ".attention.self.value." in name:
            continue
        if ".attention.self.query." in name:
            value = torch.cat([state[key.replace("query", part)] for part in ("query", "key", "value")])
        if ".downsample." in name:
            stage = int(name.split(".")[1])
            name = name.replace(f"layers.{stage}.", f"layers.{stage + 1}.")
        for theirs, ours in (
            ("batch_norm", "mel_norm"), ("patch_embed.proj", "patch_embed"), ("patch_embed.norm", "patch_norm"),
            ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("attention.self.query", "attn.qkv"),
            ("attention.self.relative", "attn.relative"), ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
        ):  # fmt: skip
            name = name.replace(theirs, ours)
        result[name] = value
    return result


def log_mel(clips: int = 2, frames: int = 1001) -> Tensor:
    return torch.randn(clips, frames, 64, generator=torch.Generator().manual_seed(1)) * 12 - 30


@pytest.mark.parametrize("size", ["small", "tiny"])
@torch.inference_mode()
def test_equals_transformers(size):
    theirs, ours = pair(size)
    x = log_mel()
    output = theirs(input_features=x.unsqueeze(1), is_longer=torch.zeros(2, 1, dtype=torch.bool))
    # measured: 1e-6 relative to values of about 1
    torch.testing.assert_close(ours(x), output.pooler_output.flatten(1), atol=1e-5, rtol=0)
    frames = output.last_hidden_state.mean(dim=2).transpose(1, 2)  # (B, C, 2, 32) -> (B, 32, C)
    torch.testing.assert_close(ours.frames(x), frames, atol=1e-4, rtol=0)
    assert ours.frames(x).shape == (2, 32, ours.dim)


@torch.inference_mode()
def test_an_exchanged_merge_order_would_be_noticed():
    theirs, ours = pair("small")
    x = log_mel()
    expected = theirs(input_features=x.unsqueeze(1)).pooler_output.flatten(1)
    for stage in ours.layers[1:]:
        blocks = stage.downsample.reduction.weight.data.chunk(4, dim=1)  # (0,0), (1,0), (0,1), (1,1)
        stage.downsample.reduction.weight.data = torch.cat([blocks[0], blocks[2], blocks[1], blocks[3]], dim=1)
    assert (ours(x) - expected).abs().max() > 1e-2


@torch.inference_mode()
def test_both_attention_kernels_give_the_same():
    _, ours = pair("small")
    x, results = log_mel(), {}
    for kind in ("plain", "sdpa"):
        ours.attention = kind
        results[kind] = ours(x)
    torch.testing.assert_close(results["plain"], results["sdpa"], atol=1e-5, rtol=0)
    ours.attention = "auto"
    assert torch.equal(ours(x), results["plain"])  # a CPU


def test_the_picture_holds_four_segments_of_time_from_top_to_bottom():
    x = torch.arange(1024).view(1, 1024, 1) * 1000 + torch.arange(64).view(1, 1, 64)
    picture = HTSAT(**SMALL).fold(x.float())[0, 0]
    for k, f, c in [(0, 0, 0), (1, 5, 7), (3, 63, 255), (2, 10, 100)]:
        assert picture[k * 64 + f, c] == (k * 256 + c) * 1000 + f


def test_too_many_frames_are_refused():
    with pytest.raises(ValueError, match="1025 frames do not fit into a picture of 1024"):
        HTSAT(**SMALL).fold(torch.zeros(1, 1025, 64))


def test_a_picture_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="picture_size=100"):
        HTSAT(picture_size=100)


def test_parameter_counts_are_the_references():
    assert sum(p.numel() for p in HTSAT().parameters()) == 27_534_488
    assert HTSAT().dim == 768
    with torch.device("meta"):
        for dim, count in ((128, 67_824_408), (256, 270_851_992)):
            assert sum(p.numel() for p in HTSAT(embed_dim=dim, depths=(2, 2, 12, 2)).parameters()) == count


def test_every_parameter_gets_a_gradient():
    model = HTSAT(**SMALL, spec_augment=SpecAugment())
    model(log_mel()).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_linear_layers_start_as_claps():
    weights = torch.cat([m.weight.flatten() for m in HTSAT().modules() if isinstance(m, torch.nn.Linear)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)


def test_drop_path_grows_to_its_rate():
    rates = [b.drop_path for s in HTSAT(drop_path=0.1).layers for b in s.blocks if b.drop_path]
    assert len(rates) == 11 and rates == sorted(rates) and rates[-1] == pytest.approx(0.1)


def test_spec_augment_zeroes_stripes_of_the_stated_width():
    torch.manual_seed(0)
    x = torch.ones(400, 200, 64)
    y = SpecAugment(time_stripes=2, time_width=64, mel_stripes=2, mel_width=8)(x)
    frames = (y.sum(dim=2) == 0).sum(dim=1)
    bins = (y.sum(dim=1) == 0).sum(dim=1)
    assert frames.max() <= 2 * 63 and bins.max() <= 2 * 7
    # two stripes of mean width 31.5 and 3.5, overlapping now and then
    assert 50 < frames.float().mean() < 63 and 6.0 < bins.float().mean() < 7.0
    assert set(y.unique().tolist()) == {0.0, 1.0}


def test_spec_augment_is_off_in_evaluation():
    model = HTSAT(**SMALL, spec_augment=SpecAugment(), drop_path=0.5).eval()
    x = log_mel(1)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
