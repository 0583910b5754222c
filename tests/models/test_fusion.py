"""Feature fusion against `transformers`: the encoder with random weights, and the front end with its four views."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ClapAudioConfig, ClapAudioModel, ClapFeatureExtractor
from transformers.models.clap.modeling_clap import ClapAudioAFFBlock

from atr.config import build
from atr.models.compute import set_compute
from atr.models.fusion import AttentionalFusion, crop_starts, four_views
from atr.models.htsat import HTSAT
from atr.models.mapping import from_hf
from atr.models.mel import LogMel

SMALL = {"embed_dim": 32, "depths": [1, 1, 2, 1], "heads": [4, 8, 16, 32]}
FUSED = ["model/audio=htsat_tiny_fused", "model/mel=clap_48k_htk"]  # with the sizes of the tiny model
SECONDS = (17.3, 10.011, 10.004, 6.1)  # far longer; by one frame; by less than one; shorter
LONGER = [True, True, False, False]


def randomise(model: nn.Module) -> None:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 0.2 if parameter.ndim < 2 or "bias_table" in name else 0.05
        parameter.data = torch.randn_like(parameter) * scale + (1.0 if "norm" in name and "weight" in name else 0.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 1.5)


@pytest.fixture(scope="module")
def pair() -> tuple[ClapAudioModel, HTSAT]:
    """The reference with random weights and statistics, and ours with the same."""
    config = ClapAudioConfig(
        patch_embeds_hidden_size=32, depths=SMALL["depths"], num_attention_heads=SMALL["heads"], hidden_size=256,
        enable_fusion=True, fusion_type="aff_2d",
    )  # fmt: skip
    theirs = ClapAudioModel(config).eval()
    randomise(theirs)
    theirs.audio_encoder.batch_norm.running_mean.uniform_(-40, -20)
    theirs.audio_encoder.batch_norm.running_var.uniform_(50, 150)
    weights, unknown = from_hf({f"audio_model.{name}": value for name, value in theirs.state_dict().items()})
    assert unknown == []
    ours = HTSAT(**SMALL, fusion=True).eval()
    ours.load_state_dict({name.removeprefix("audio."): value for name, value in weights.items()})
    return theirs, ours


def views(clips: int = 3) -> Tensor:
    return torch.randn(clips, 4, 1001, 64, generator=torch.Generator().manual_seed(1)) * 12 - 30


def far(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


@torch.inference_mode()
def test_equals_transformers_whichever_clips_are_longer(pair):
    theirs, ours = pair
    x = views(2)
    for pattern in itertools.product([False, True], repeat=2):
        longer = torch.tensor(pattern)
        expected = theirs(input_features=x, is_longer=longer.unsqueeze(1))
        found = ours.frames(x, longer)
        assert far(found.mean(dim=1), expected.pooler_output) < 1e-5  # measured: 5e-7, of values of about 1
        assert far(found, expected.last_hidden_state.mean(dim=2).transpose(1, 2)) < 1e-4
    assert torch.equal(ours.frames(x), found)  # all are longer
    assert far(ours(x), expected.pooler_output) < 1e-5
    assert far(ours(x[:, 0]), ours(x, torch.zeros(2, dtype=torch.bool))) < 1e-5


@torch.inference_mode()
def test_views_in_another_order_or_left_out_would_be_noticed(pair):
    _, ours = pair
    x = views(1)
    expected = ours(x)
    for other in (x[:, [0, 2, 1, 3]], x[:, [1, 0, 2, 3]], x[:, 0]):
        assert far(ours(other), expected) > 0.1


@torch.inference_mode()
def test_a_clip_does_not_depend_on_its_batch(pair):
    _, ours = pair
    x, longer = views(), torch.tensor([True, False, True])
    alone = torch.cat([ours(x[i : i + 1], longer[i : i + 1]) for i in range(3)])
    assert far(ours(x, longer), alone) < 1e-5


def test_the_attention_in_training_and_the_statistics_it_keeps():
    theirs = ClapAudioAFFBlock(ClapAudioConfig(patch_embeds_hidden_size=32)).train()
    randomise(theirs)
    ours = AttentionalFusion(32).train()
    ours.load_state_dict(theirs.state_dict())
    whole, crops = torch.randn(2, 3, 16, 16, 32, generator=torch.Generator().manual_seed(1))
    expected = theirs(whole.permute(0, 3, 1, 2), crops.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
    assert far(ours(whole.flatten(1, 2), crops.flatten(1, 2)), expected) < 1e-5
    for name, value in theirs.state_dict().items():
        assert far(ours.state_dict()[name], value) < 1e-5, name


def by_matrix_products(block: AttentionalFusion, whole: Tensor, crops: Tensor) -> Tensor:
    """The slow version: tokens `(B, N, C)`, no convolution, no batch norm of PyTorch's."""

    def norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
        mean, variance = layer.running_mean, layer.running_var
        if layer.training:
            variance, mean = torch.var_mean(x, dim=(0, 1), correction=0)
        return (x - mean) * torch.rsqrt(variance + layer.eps) * layer.weight + layer.bias

    def attend(layers: nn.Sequential, x: Tensor) -> Tensor:
        first, second, third, fourth = (layer for layer in layers if isinstance(layer, nn.Conv2d | nn.BatchNorm2d))
        x = norm(second, x @ first.weight.flatten(1).T + first.bias).relu()
        return norm(fourth, x @ third.weight.flatten(1).T + third.bias)

    both = whole + crops
    share = (attend(block.local_att, both) + attend(block.global_att, both.mean(dim=1, keepdim=True))).sigmoid()
    return 2 * whole * share + 2 * crops * (1 - share)


@pytest.mark.parametrize("training", [True, False])
def test_the_gradients_of_the_attention_are_those_of_matrix_products(training):
    block = AttentionalFusion(16).double().train(training)
    randomise(block)
    block.double()
    inputs = torch.randn(2, 3, 64, 16, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 64, 16, dtype=torch.float64)
    wanted = [inputs, *block.parameters()]
    expected = torch.autograd.grad((by_matrix_products(block, *inputs) * weights).sum(), wanted)
    found = torch.autograd.grad((block(*inputs) * weights).sum(), wanted)
    assert max(far(one, other) for one, other in zip(found, expected, strict=True)) < 1e-10


def test_a_single_clip_can_be_trained_on():
    whole, crops = torch.randn(2, 1, 256, 32)
    block = AttentionalFusion(32).train()
    expected = block(whole.repeat(2, 1, 1), crops.repeat(2, 1, 1))[:1]
    assert torch.equal(block(whole, crops), expected)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ClapAudioAFFBlock(ClapAudioConfig(patch_embeds_hidden_size=32)).train()(*torch.randn(2, 1, 32, 16, 16))


def test_fusion_has_the_references_parameters_and_they_get_gradients():
    with torch.device("meta"):
        counts = [sum(p.numel() for p in HTSAT(fusion=fusion).parameters()) for fusion in (True, False)]
    assert counts[0] - counts[1] == 14_640
    model = HTSAT(**SMALL, fusion=True).train()
    model(views(2), torch.tensor([True, False])).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_views_that_a_model_cannot_take_are_refused(pair):
    with pytest.raises(ValueError, match=r"shape \(3, 4, 1001, 64\); this model takes \(B, F, M\)$"):
        HTSAT(**SMALL)(views())
    with pytest.raises(ValueError, match=r"shape \(3, 3, 1001, 64\); this model takes \(B, F, M\) or \(B, 4, F, M\)"):
        pair[1](views()[:, :3])
    with pytest.raises(ValueError, match=r"longer goes with four views, but the log-mel has the shape \(3, 1001, 64\)"):
        pair[1](views()[:, 0], torch.ones(3, dtype=torch.bool))


# ---------------------------------------------------------------------------------------------------- the front end


def sounds() -> list[np.ndarray]:
    """A chirp over noise, of each of `SECONDS` at 48 kHz."""
    rng = np.random.default_rng(0)
    time = np.arange(round(max(SECONDS) * 48_000)) / 48_000
    sound = 0.5 * np.sin(2 * np.pi * (50 * time + 400 * time**2)) + rng.normal(0, 0.1, len(time))
    return [sound[: round(seconds * 48_000)].astype(np.float32) for seconds in SECONDS]


@pytest.fixture(scope="module")
def features() -> tuple[Tensor, list[bool]]:
    """The reference's four views of `sounds`, with crops from the middles of their parts."""
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="fusion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "choice", lambda part: part[len(part) // 2])
        found = extractor(sounds(), sampling_rate=48_000, return_tensors="pt")
    return found["input_features"].float(), [bool(longer) for longer in found["is_longer"]]


def of_one_clip(sound: np.ndarray, scale: str = "htk") -> Tensor:
    """Our log-mel of a sound, repeated and padded as in training where it is shorter than 10 s: `(1, F, 64)`."""
    if len(sound) < 480_000:
        sound = np.tile(sound, 480_000 // len(sound))
        sound = np.pad(sound, (0, 480_000 - len(sound)))
    return LogMel(mel_scale=scale)(torch.from_numpy(sound).unsqueeze(0))


def test_the_front_end_equals_transformers(features):
    expected, longer = features
    assert longer == LONGER
    for sound, reference, is_longer in zip(sounds(), expected, longer, strict=True):
        log_mel = of_one_clip(sound)
        assert (log_mel.shape[1] > LogMel().frames) == is_longer
        ours = four_views(log_mel, 1001)[0] if is_longer else log_mel.expand(4, -1, -1)
        assert far(ours, reference) < 1e-3  # dB; measured: 1e-4


def test_slaneys_filters_antialias_and_other_crops_would_be_noticed(features):
    reference, log_mel = features[0][0], of_one_clip(sounds()[0])
    assert far(four_views(of_one_clip(sounds()[0], "slaney"), 1001)[0], reference) > 10
    smooth = F.interpolate(log_mel.unsqueeze(1), (1001, 64), mode="bilinear", antialias=True)[0, 0]
    assert far(smooth, reference[0]) > 1
    assert far(log_mel[0, 120:1121], reference[1]) > 1


def test_the_htk_filterbank_is_librosas_and_another_name_is_refused():
    import librosa

    expected = librosa.filters.mel(sr=48_000, n_fft=1024, n_mels=64, fmin=50, fmax=14_000, htk=True, norm=None)
    np.testing.assert_array_equal(LogMel(mel_scale="htk").filterbank.numpy().T, expected)
    with pytest.raises(ValueError, match="mel_scale is 'HTK'; allowed: slaney, htk"):
        LogMel(mel_scale="HTK")


@pytest.mark.parametrize("total", [1002, 1003, 1004, 1500, 4801])
def test_crops_start_in_the_middles_of_numpys_parts_and_in_training_anywhere_in_them(total):
    parts = [list(part) or [0] for part in np.array_split(range(total - 1000), 3)]
    assert crop_starts(2, total, 1001, False).tolist() == [[part[len(part) // 2] for part in parts]] * 2
    torch.manual_seed(0)
    drawn = crop_starts(30 * (total - 1000), total, 1001, True)
    for number, part in enumerate(parts):
        found = drawn[:, number]
        assert found.min() == part[0] and found.max() == part[-1]


def test_crops_of_a_batch_are_slices_of_its_clips():
    log_mel = torch.randn(2, 50, 3)
    torch.manual_seed(0)
    crops = four_views(log_mel, 20, at_random=True)[:, 1:]
    torch.manual_seed(0)
    for clip, starts in enumerate(crop_starts(2, 50, 20, True).tolist()):
        for number, start in enumerate(starts):
            assert torch.equal(crops[clip, number], log_mel[clip, start : start + 20])


# --------------------------------------------------------------------------------------------------- the whole model


def whole_model(tiny, *overrides: str):
    torch.manual_seed(0)
    model = build(tiny(*FUSED, "model.audio.drop_path=0", "model.audio.spec_augment=null", *overrides).model)
    for module in [model.audio.fusion, model.audio.local_patch_embed]:
        randomise(module)
    return model.eval()


def noise(clips: int, seconds: float) -> Tensor:
    return torch.randn(clips, round(16_000 * seconds), generator=torch.Generator().manual_seed(1)) * 0.1


@torch.inference_mode()
def test_waveforms_of_any_length_are_encoded(tiny):
    model = whole_model(tiny)
    assert model.fuses and model.mel.frames == 101 and model.mel.mel_scale == "htk"
    waveform = noise(3, 2.5)
    together = model.encode_audio(waveform)
    assert far(together.norm(dim=1), torch.ones(3)) < 1e-5 and torch.equal(together, model.encode_audio(waveform))
    assert far(torch.cat([model.encode_audio(row.unsqueeze(0)) for row in waveform]), together) < 1e-5
    short = waveform[:, :16_000]
    assert far(together, model.encode_audio(short)) > 1e-3
    assert model.log_mel(waveform).shape == (3, 4, 101, 32)
    for samples in (16_159, 16_000, 8_000):  # a clip and less than a hop; a clip; half of one
        assert model.log_mel(waveform[:, :samples]).ndim == 3
    views, clip = model.log_mel(waveform), model.log_mel(short)
    mixed = torch.stack([views[0], clip[1].expand(4, -1, -1), views[2]])
    expected = torch.stack([together[0], model.encode_audio(short)[1], together[2]])
    assert far(model.encode_log_mel(mixed, torch.tensor([True, False, True])), expected) < 1e-5


def test_without_fusion_a_long_waveform_is_still_refused(tiny):
    model = build(tiny().model)
    assert not model.fuses
    with pytest.raises(ValueError, match="251 frames do not fit into a picture of 128; cut the clip"):
        model.encode_audio(noise(1, 2.5))


def test_chance_places_the_crops_in_training_alone(tiny):
    model = whole_model(tiny)
    waveform = noise(2, 3.0)
    assert torch.equal(model.log_mel(waveform), model.log_mel(waveform))
    model.train()
    first, second = model.log_mel(waveform), model.log_mel(waveform)
    assert torch.equal(first[:, 0], second[:, 0])
    assert all(not torch.equal(first[:, crop], second[:, crop]) for crop in (1, 2, 3))


def test_autocast_changes_a_fused_embedding_by_little(tiny):
    model = whole_model(tiny).train()
    torch.manual_seed(0)
    plain = model.encode_audio(noise(3, 2.5))
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.encode_audio(noise(3, 2.5))
        views, longer = model.log_mel(noise(3, 2.5)), torch.tensor([True, False, True])
        assert model.encode_log_mel(views, longer).isfinite().all()
    assert mixed.dtype == torch.float32 and views.dtype == torch.float32
    assert F.cosine_similarity(plain, mixed).min() > 0.99
    mixed.square().sum().backward()


@pytest.mark.slow
def test_compiled_it_computes_the_same(tiny):
    eager, compiled = whole_model(tiny), whole_model(tiny)
    set_compute(compiled, compile=True)
    waveform, longer = noise(3, 2.5), torch.tensor([True, False, True])
    for model in (eager, compiled):
        model.encode_audio(waveform)[:, 0].sum().backward()
    for (name, one), other in zip(eager.audio.named_parameters(), compiled.audio.parameters(), strict=True):
        assert far(one.grad, other.grad) < 1e-4 * float(one.grad.abs().max() + 1), name
    with torch.inference_mode():
        views = eager.log_mel(waveform)
        assert far(eager.encode_log_mel(views, longer), compiled.encode_log_mel(views, longer)) < 1e-5
