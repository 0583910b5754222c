"""The two towers together."""

import torch
from hydra.utils import instantiate

from atr.pipeline.datamodule import Collate
from atr.types import Sample
from tests.conftest import tone


def batch_for(model, texts):
    samples = [Sample(f"clip{i}", tone(300 * (i + 1)), [t], [t], [], "") for i, t in enumerate(texts)]
    return Collate(model.text.tokenizer)([(sample, []) for sample in samples])


def test_embeddings_are_unit_float32_and_every_parameter_is_used(tiny):
    model = instantiate(tiny().model)
    batch = batch_for(model, ["a dog", "rain", "the sea"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = model(batch)
    for side in (embeddings.audio, embeddings.text):
        assert side.dtype == torch.float32 and side.shape == (3, 32)
        torch.testing.assert_close(side.norm(dim=1), torch.ones(3), atol=1e-5, rtol=0)
    (embeddings.audio * embeddings.text.roll(1, 0)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_clip_does_not_depend_on_its_batch_in_evaluation(tiny):
    model = instantiate(tiny().model).eval()
    batch = batch_for(model, ["a dog", "rain", "the sea"])
    together = model.encode_audio(batch.waveform)
    alone = torch.cat([model.encode_audio(row.unsqueeze(0)) for row in batch.waveform])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
