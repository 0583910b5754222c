"""Batches larger than memory: the model sees a part at a time, the loss all of it (GradCache, arXiv 2101.06983).

Accumulating the gradients of smaller batches, as is usual elsewhere, would compare each clip with fewer captions.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from atr.models.clap import Clap
from atr.types import Batch, Embeddings


def encode_in_parts(model: Clap, batch: Batch, size: int | None) -> Embeddings:
    """The embeddings of a batch, `size` clips at a time; what their gradient needs is computed again, part by part.

    So the memory is that of a part, for one more forward pass. That pass meets the same dropout, DropPath and
    SpecAugment, and leaves running statistics alone. A batch norm sees the statistics of its part.

    Args:
        size: None, or one that holds the whole batch: plainly `model(batch)`.
    """
    if size is None or size >= len(batch.waveform):
        return model(batch)

    def encode(waveform: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        part = model(replace(batch, waveform=waveform, input_ids=input_ids, attention_mask=attention_mask))
        return part.audio, part.text

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), keep_statistics(model)

    # As tensors, and not as a Batch, so that the state of their device's random generator is kept.
    tensors = (batch.waveform, batch.input_ids, batch.attention_mask)
    parts = [
        checkpoint(encode, *part, use_reentrant=False, context_fn=contexts)
        for part in zip(*(tensor.split(size) for tensor in tensors), strict=True)
    ]
    audio, text = (torch.cat(side) for side in zip(*parts, strict=True))
    return Embeddings(audio, text)


@contextmanager
def keep_statistics(model: nn.Module) -> Iterator[None]:
    """Within it, batch norms update copies of their running statistics, which are dropped after it.

    Copies, as without any the pass would save fewer tensors than the first one, which `checkpoint` refuses.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in before:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in before:
            setattr(norm, name, buffer)
