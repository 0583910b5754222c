"""Samples -> `Batch`."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from atr.pipeline.dataset import Loaded
from atr.types import Batch

NO_WAVEFORM = np.empty(0, np.int16)


class Collate:
    """Samples -> `Batch`.

    Args:
        tokenizer: captions -> `input_ids` and `attention_mask`, int64 `(M, L)`.
    """

    def __init__(self, tokenizer: Callable[[Sequence[str]], dict[str, torch.Tensor]]) -> None:
        self.tokenizer = tokenizer

    def __call__(self, loaded: Sequence[Loaded]) -> Batch:
        """Tokenises and numbers the good samples, maybe none; carries the bad ones along."""
        samples = [sample for sample, _ in loaded if sample is not None]
        bad = [one for _, skipped in loaded for one in skipped]
        waveforms = [torch.from_numpy(sample.waveform) for sample in samples]
        features = [torch.from_numpy(sample.features) for sample in samples if sample.features is not None]
        for sample in samples:
            sample.waveform, sample.features = NO_WAVEFORM, None  # travel in the batch
        tokens = self.tokenizer([text for sample in samples for text in sample.spoken])
        return Batch(
            waveform=torch.stack(waveforms) if waveforms else torch.zeros(0, 1, dtype=torch.int16),
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            clip_id=ids([sample.key for sample in samples]),
            source_id=ids([sample.source or sample.key for sample in samples]),
            label_id=ids(["\n".join(sorted(sample.labels)) or sample.key for sample in samples]),
            corpus_id=ids([sample.corpus for sample in samples]),
            caption_id=ids([caption for sample in samples for caption in sample.captions]),
            samples=samples,
            clipped=sum(sample.clipped for sample in samples),
            bad=bad,
            features=torch.stack(features) if features else None,
        )


def ids(names: Sequence[str]) -> torch.Tensor:
    """63-bit hashes, int64 `(N,)`, the same in every process."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(digest, "little") >> 1 for digest in digests], dtype=torch.int64)
