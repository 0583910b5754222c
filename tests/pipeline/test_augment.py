"""Augmentation: every preset, one seed one result, global generators left alone, errors not swallowed."""

import random

import numpy as np
import pytest
import soundfile
from audiomentations import Gain
from hydra.utils import instantiate

from atr.config import compose_config, missing
from atr.errors import AtrError
from atr.pipeline.augment import Delay, RelativeNoise, augment
from tests.conftest import tone

RATE = 16_000


def preset(name):
    return instantiate(compose_config([f"augment={name}"]).augment.transform, _convert_="all")


@pytest.mark.parametrize("name", ["paper", "released_code", "demo", "strong"])
def test_a_preset_depends_on_its_seed_only_and_keeps_the_length(name):
    transform, wave = preset(name), tone(440, 1.0, RATE)
    results = [augment(wave, RATE, transform, seed) for seed in range(12)]
    again = [augment(wave, RATE, transform, seed) for seed in range(12)]
    for one, other in zip(results, again, strict=True):
        assert one.shape == wave.shape and one.dtype == np.float32
        np.testing.assert_array_equal(one, other)
    assert sum(not np.array_equal(results[0], other) for other in results) >= 5


def test_paper_changes_half_of_the_clips():
    transform, wave = preset("paper"), tone(440, 0.1, RATE)
    changed = sum(not np.array_equal(augment(wave, RATE, transform, seed), wave) for seed in range(1000))
    assert 450 < changed < 550


def test_released_code_filters_each_chosen_clip():
    """Half of the clips are chosen; of these each loses its lows or its highs, or both stay only through noise."""
    transform = preset("released_code")
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(noise))
    filtered = 0
    for seed in range(400):
        ratio = np.abs(np.fft.rfft(augment(noise, RATE, transform, seed))) / spectrum
        loss = [np.median(ratio[20:80]), np.median(ratio[6000:7900])]
        filtered += min(loss) < 0.3 * max(loss)
    assert 160 < filtered < 240


def test_the_global_generators_are_put_back():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    augment(tone(440), RATE, preset("paper"), 5)
    assert (random.random(), np.random.rand()) == expected


def test_a_failing_transform_raises():
    def broken(samples, sample_rate):
        raise RuntimeError("no impulse response found")

    with pytest.raises(AtrError, match="RuntimeError: no impulse response found"):
        augment(tone(440), RATE, broken, 0)
    with pytest.raises(AtrError, match=r"made shape \(8000,\) of \(16000,\)"):
        augment(tone(440), RATE, lambda samples, sample_rate: samples[:8000], 0)
    with pytest.raises(AtrError, match="NaN"):
        augment(tone(440), RATE, lambda samples, sample_rate: samples * np.nan, 0)


def test_relative_noise_has_the_stated_share():
    wave = np.random.default_rng(0).normal(0, 0.3, 100_000).astype(np.float32)
    added = augment(wave, RATE, RelativeNoise(0.004, 0.004, p=1.0), 0) - wave
    assert added.std() / wave.std() == pytest.approx(0.004, rel=0.02)


def test_delay_is_half_the_sum_with_the_echo():
    wave = tone(440)
    result = augment(wave, RATE, Delay(200, 200, 50, 0.5, p=1.0), 0)
    expected = wave / 2
    expected[3200:] += 0.25 * wave[:-3200]
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_gain_is_audiomentations_own():
    wave = tone(440)
    result = augment(wave, RATE, Gain(min_gain_db=-6.0, max_gain_db=-6.0, p=1.0), 0)
    np.testing.assert_allclose(result, wave * 10 ** (-6 / 20), rtol=1e-5)


def test_reverb_convolves_with_a_room_of_the_folder_and_keeps_the_length(tmp_path):
    room = np.zeros(RATE // 2, np.float32)
    room[0], room[RATE // 4] = 1.0, 0.5  # one echo after 0.25 s
    soundfile.write(tmp_path / "room.wav", room, RATE)
    cfg = compose_config(["augment=reverb", f"augment.impulse_responses={tmp_path}"])
    transform = instantiate(cfg.augment.transform, _convert_="all")
    wave = np.zeros(RATE, np.float32)
    wave[100] = 0.5
    heard = [augment(wave, RATE, transform, seed) for seed in range(20)]
    echoes = [one for one in heard if abs(one[100 + RATE // 4]) > 0.3 * abs(one[100])]
    assert 4 <= len(echoes) <= 16 and all(len(one) == RATE for one in heard)
    assert instantiate(cfg.augment.mix).probability == 0.25
    assert "augment.impulse_responses" in missing(compose_config(["augment=reverb"]))


def test_strong_mixes_pairs_and_the_others_do_not():
    assert instantiate(compose_config(["augment=strong"]).augment.mix).probability == 0.25
    for name in ("paper", "released_code", "demo", "none"):
        assert compose_config([f"augment={name}"]).augment.mix is None
