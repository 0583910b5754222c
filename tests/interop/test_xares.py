"""X-ARES: the encoder by its own checker, and found as its runner finds it."""

import pytest
import torch

from atr.errors import CheckpointError, UsageError
from atr.interop import xares as module
from atr.interop.frames import frame_embeddings
from atr.interop.xares import AtrEncoder
from tests.conftest import tone


def test_the_suites_own_check(checkpoint, monkeypatch):
    checker = pytest.importorskip("xares.audio_encoder_checker")
    utils = pytest.importorskip("xares.utils")
    monkeypatch.setenv("ATR_CHECKPOINT", str(checkpoint))
    encoder = utils.attr_from_py_path("atr.interop.xares", endswith="Encoder")()
    assert checker.check_audio_encoder(encoder)
    encoder.output_dim += 1
    assert not checker.check_audio_encoder(encoder)


def test_what_the_suite_asks_for(checkpoint, monkeypatch):
    """The same without the suite (`xares/audio_encoder_checker.py`, `xares/utils.py` of 0.1.3)."""
    assert [name for name in dir(module) if name.endswith("Encoder")] == ["AtrEncoder"]
    monkeypatch.setenv("ATR_CHECKPOINT", str(checkpoint))
    encoder = AtrEncoder()
    assert isinstance(encoder, torch.nn.Module) and list(encoder.parameters())
    found = encoder(torch.randn(2, 50_000))  # 3.125 s, beyond [-1, 1]
    assert found.dtype == torch.float32 and found.isfinite().all()
    assert found.shape == (2, -(-3125 // encoder.hop_size_in_ms), encoder.output_dim)
    assert encoder.sampling_rate == 16_000
    first = frame_embeddings(encoder.model, torch.from_numpy(tone(300)[None]), 16_000)
    assert torch.equal(encoder(torch.from_numpy(tone(300)[None])), first)


@pytest.mark.slow
def test_ten_minutes_go_through(checkpoint):
    encoder = AtrEncoder(checkpoint)
    minutes = torch.from_numpy(tone(300, 600.0)[None])
    found = encoder(minutes)
    assert found.shape[1] == 600 * 1000 / encoder.hop_size_in_ms and found.isfinite().all()


def test_a_probe_can_be_trained_on_it(checkpoint):
    encoder = AtrEncoder(checkpoint)
    found = encoder(torch.from_numpy(tone(300)[None]))
    assert not found.requires_grad
    torch.nn.Linear(encoder.output_dim, 2)(found).sum().backward()


def test_a_checkpoint_must_be_named(monkeypatch, tmp_path):
    monkeypatch.delenv("ATR_CHECKPOINT", raising=False)
    with pytest.raises(UsageError, match="set ATR_CHECKPOINT=PATH"):
        AtrEncoder()
    monkeypatch.setenv("ATR_CHECKPOINT", str(tmp_path / "gone.ckpt"))
    with pytest.raises(CheckpointError, match=r"gone\.ckpt is not there"):
        AtrEncoder()
