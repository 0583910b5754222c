"""Compilation, recomputation and the CPU's settings change no result; autocast leaves float32 what must be."""

import pytest
import torch
from hydra.utils import instantiate

from atr.errors import UsageError
from atr.models.compute import ROUNDING, _rounding, fast_cpu, onednn_is_float32, set_compute
from tests.models.test_clap import batch_for

TEXTS = ["a dog", "rain on a tin roof", "the sea"]


def gradients(model, batch):
    """The loss and all gradients of a step from a fixed seed."""
    model.zero_grad()
    torch.manual_seed(7)
    embeddings = model(batch)
    loss = (embeddings.audio * embeddings.text.roll(1, 0)).sum()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def made(cfg, **compute):
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    set_compute(model, **compute)
    return model


def kept_bytes(model, batch):
    """What autograd holds between forward and backward, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(batch)
    assert output.audio.requires_grad
    return sum(found.values())


def test_recomputation_keeps_less_and_gives_the_same_gradients(tiny):
    cfg = tiny("model.audio.drop_path=0.5", "model.text.config.num_hidden_layers=3")
    plain, again = made(cfg), made(cfg, recompute=["audio", "text"])
    assert plain.text.inner.config.attention_probs_dropout_prob > 0 and again.audio.layers[1].recompute
    batch = batch_for(plain, TEXTS)
    (loss, expected), (loss_again, found) = gradients(plain, batch), gradients(again, batch)
    assert torch.equal(loss, loss_again)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert kept_bytes(again, batch) < 0.6 * kept_bytes(plain, batch)


def test_without_the_random_state_recomputation_would_be_noticed(tiny, monkeypatch):
    import atr.models.window as window

    cfg = tiny("model.audio.drop_path=0.5")
    plain, again = made(cfg), made(cfg, recompute=["audio"])
    batch = batch_for(plain, TEXTS)
    real = window.checkpoint
    monkeypatch.setattr(window, "checkpoint", lambda *a, **k: real(*a, **k, preserve_rng_state=False))
    expected, found = gradients(plain, batch)[1], gradients(again, batch)[1]
    assert any(not torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_what_cannot_be_recomputed_is_refused(tiny):
    with pytest.raises(UsageError, match=r"compute.recompute names 'vision'; allowed: audio, text"):
        made(tiny(), recompute=["vision"])
    model = made(tiny())
    type(model.text.inner).supports_gradient_checkpointing, before = False, True
    try:
        with pytest.raises(UsageError, match="RobertaModel cannot; leave it out"):
            set_compute(model, recompute=["text"])
    finally:
        type(model.text.inner).supports_gradient_checkpointing = before


@pytest.mark.slow
def test_compiled_towers_compute_the_same_for_captions_of_any_length(tiny):
    """Dropout, DropPath and SpecAugment are off: compiled code draws other numbers."""
    cfg = tiny(
        "model.audio.drop_path=0", "model.audio.spec_augment=null",
        "++model.text.config.hidden_dropout_prob=0", "++model.text.config.attention_probs_dropout_prob=0",
    )  # fmt: skip
    eager, compiled = made(cfg), made(cfg, compile=True)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    for texts in (TEXTS, ["a much longer caption of a dog that barks", "rain", "wind"]):
        batch = batch_for(eager, texts)
        (loss, expected), (loss_compiled, found) = gradients(eager, batch), gradients(compiled, batch)
        torch.testing.assert_close(loss_compiled, loss, atol=1e-5, rtol=0)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4 * float(gradient.abs().max() + 1), rtol=0)


def test_autocast_leaves_mel_mel_norm_and_embeddings_in_float32(tiny):
    model = made(tiny())
    seen = {}

    def watch(name):
        def hook(module, inputs, output):
            seen[name] = (inputs[0].dtype, output.dtype)

        return hook

    parts = {
        "mel": model.mel, "mel_norm": model.audio.mel_norm, "attention": model.audio.layers[0].blocks[0].attn.qkv,
        "text": model.text.inner.encoder.layer[0].intermediate.dense,
    }  # fmt: skip
    for name, module in parts.items():
        module.register_forward_hook(watch(name))
    batch = batch_for(model, TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = model(batch)
    assert seen["mel"][1] == torch.float32
    assert seen["mel_norm"] == (torch.float32, torch.float32)
    assert seen["attention"][1] == seen["text"][1] == torch.bfloat16
    assert embeddings.audio.dtype == embeddings.text.dtype == torch.float32


def test_the_loss_is_float32_under_autocast(tiny):
    cfg = tiny()
    model, loss = made(cfg), instantiate(cfg.loss)
    batch = batch_for(model, TEXTS)
    embeddings = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        under = loss(embeddings, batch)
        rounded = embeddings.audio @ embeddings.text.T
    assert under.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    assert torch.equal(under, loss(embeddings, batch))


def test_fast_cpu_multiplies_in_float32_and_leaves_no_trace():
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    a, b = torch.randn(2, 300, 500), torch.randn(2, 500, 200)
    with fast_cpu():
        assert _rounding(a, b) < ROUNDING and _rounding(a[0], b[0]) < ROUNDING
    assert matmul.fp32_precision == before
    assert _rounding(a.bfloat16().float(), b) < ROUNDING < _rounding_of_bf16(a, b)


def _rounding_of_bf16(a, b):
    """What the check would find on a processor that does round."""
    error = (a.bfloat16() @ b.bfloat16()).double() - a.double() @ b.double()
    return float((error.abs() / (a.abs() @ b.abs())).max())


def test_a_processor_that_rounds_to_bf16_is_left_alone(monkeypatch):
    monkeypatch.setattr("atr.models.compute._rounding", lambda a, b: 1e-4)
    before = torch.backends.mkldnn.matmul.fp32_precision
    assert not onednn_is_float32()
    with fast_cpu():
        assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimizers_are_fused_by_default(tiny, name):
    cfg = tiny(f"optimizer={name}")
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = instantiate(cfg.optimizer)([parameter])
    assert optimizer.defaults["fused"] is True
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert (parameter < 1).all()
