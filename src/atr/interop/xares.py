"""A checkpoint as an audio encoder of X-ARES (https://github.com/jimbozhang/xares).

    ATR_CHECKPOINT=last.ckpt python -m xares.run atr.interop.xares TASK.py …

X-ARES builds the one class of this module whose name ends with "Encoder", without arguments, in processes of its own;
so the checkpoint comes by the environment. It stores embeddings under ./env by the class's name: run it in another
folder for each checkpoint, or it goes on with the embeddings of the one before.
"""

import os
from pathlib import Path

from torch import Tensor, nn

import atr
from atr.errors import UsageError
from atr.interop.frames import frame_embeddings, frame_seconds, on_device_of

CHECKPOINT = "ATR_CHECKPOINT"  # the environment variable


class AtrEncoder(nn.Module):
    """Waveforms -> embeddings along time, of the audio tower before its projection.

    Args:
        checkpoint: what `atr.load` takes; that of the environment variable ATR_CHECKPOINT when None.

    Attributes:
        sampling_rate: Hz. output_dim: D. hop_size_in_ms: time between two embeddings.

    Raises:
        UsageError: no checkpoint is named.
    """

    def __init__(self, checkpoint: str | Path | None = None) -> None:
        super().__init__()
        checkpoint = checkpoint or os.environ.get(CHECKPOINT)
        if not checkpoint:
            raise UsageError(f"no checkpoint is named: set {CHECKPOINT}=PATH before X-ARES starts")
        self.model = atr.load(checkpoint)
        self.clap = self.model.clap  # so that the encoder has parameters, which `to` moves
        self.sampling_rate, self.output_dim = self.model.sample_rate, self.clap.audio.dim
        self.hop_size_in_ms = 1000 * frame_seconds(self.model)

    def forward(self, audio: Tensor) -> Tensor:
        """float32 `(B, T)` at `sampling_rate`, of any length -> `(B, ceil(time / hop), D)`, float32, no gradient."""
        return frame_embeddings(on_device_of(self.model), audio, self.sampling_rate)
