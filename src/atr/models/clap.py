"""The two-tower model: encoders, projections, one common space."""

import torch.nn.functional as F
from torch import Tensor, nn

from atr.models.fusion import four_views
from atr.models.htsat import HTSAT
from atr.models.mel import LogMel
from atr.models.text import TextEncoder
from atr.types import Batch, Embeddings


class Clap(nn.Module):
    """Clips and captions as unit vectors of `dim` numbers.

    Args:
        mel: the front end.
        audio: log-mel `(B, F, M)` -> `(B, audio.dim)`.
        text: tokens `(M, L)` -> `(M, text.dim)`.
        dim: D, width of the common space.
    """

    def __init__(self, mel: LogMel, audio: HTSAT, text: TextEncoder, dim: int = 512) -> None:
        super().__init__()
        self.mel, self.audio, self.text, self.dim = mel, audio, text, dim
        self.audio_projection = projection(audio.dim, dim)
        self.text_projection = projection(text.dim, dim)

    def forward(self, batch: Batch) -> Embeddings:
        """Encodes both sides of a batch."""
        return Embeddings(self.encode_audio(batch.waveform), self.encode_text(batch.input_ids, batch.attention_mask))

    @property
    def fuses(self) -> bool:
        """Whether clips longer than the model's can be encoded, by feature fusion."""
        return getattr(self.audio, "fusion", None) is not None

    def encode_audio(self, waveform: Tensor) -> Tensor:
        """int16 or float32 `(B, T)` -> `(B, D)`, float32, unit norm; with fusion T may be longer than a clip."""
        return self.encode_log_mel(self.log_mel(waveform))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """int16 or float32 `(B, T)` -> what the audio encoder takes, in dB, float32.

        Returns:
            `(B, F, M)`; four views `(B, 4, F, M)` where the model fuses and T has more frames than its clips. In
            training chance places the crops.
        """
        log_mel: Tensor = self.mel(waveform)
        if self.fuses and log_mel.shape[1] > self.mel.frames:
            return four_views(log_mel, self.mel.frames, at_random=self.audio.training)
        return log_mel

    def encode_log_mel(self, log_mel: Tensor, longer: Tensor | None = None) -> Tensor:
        """What `log_mel` gives -> `(B, D)`, float32, unit norm.

        Clips of several lengths go together as four views, of which those that are not longer fill the first.

        Args:
            log_mel: `(B, F, M)`, or with fusion `(B, 4, F, M)`.
            longer: bool `(B,)`, with four views: the clips whose crops are used. None: all.
        """
        features = self.audio(log_mel) if longer is None else self.audio(log_mel, longer)
        return F.normalize(self.audio_projection(features).float(), dim=1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 `(M, L)` twice -> `(M, D)`, float32, unit norm."""
        return F.normalize(self.text_projection(self.text(input_ids, attention_mask)).float(), dim=1)


def projection(width: int, dim: int) -> nn.Sequential:
    """Linear, ReLU, Linear, as in LAION-CLAP (`clap_module/model.py`)."""
    return nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))
