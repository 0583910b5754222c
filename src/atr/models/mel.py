"""Waveform -> log-mel, as CLAP's front end computes it, in float32 whatever the autocast around it."""

from typing import Literal

import torch
from torch import Tensor, nn

from atr.pipeline.audio import INT16_PEAK


class LogMel(nn.Module):
    """Power STFT, mel filterbank, 10·log10 with a floor; no top-dB limit.

    The defaults are LAION-CLAP's without fusion (`audio_branch.spectrogram_extractor` and
    `logmel_extractor`, LAION-AI/CLAP at 1fd4c37). Note that `frequency_min` is 50 Hz there, while
    `transformers.ClapFeatureExtractor()` has 0 by default and then differs by up to 35 dB. Models with fusion were
    trained with `mel_scale="htk"` (torchaudio's filterbank), whose levels are some 22 dB higher.

    Args:
        sample_rate: Hz.
        seconds: length of the clips the model is made for, s.
        n_fft: samples in a window (periodic Hann).
        hop: samples between frames.
        n_mels: bins.
        frequency_min, frequency_max: edges of the filterbank, Hz.
        floor: smallest power before the logarithm.
        mel_scale: `slaney` (each filter has the same area), or `htk` (each has the same height).

    Attributes:
        frames: of a clip of `seconds`.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(
        self,
        sample_rate: int = 48_000,
        seconds: float = 10.0,
        n_fft: int = 1024,
        hop: int = 480,
        n_mels: int = 64,
        frequency_min: float = 50.0,
        frequency_max: float = 14_000.0,
        floor: float = 1e-10,
        mel_scale: Literal["slaney", "htk"] = "slaney",
    ) -> None:
        super().__init__()
        from librosa.filters import mel  # slow to import

        if mel_scale not in ("slaney", "htk"):
            raise ValueError(f"mel_scale is {mel_scale!r}; allowed: slaney, htk")
        self.sample_rate, self.seconds = sample_rate, seconds
        self.n_fft, self.hop, self.n_mels, self.floor = n_fft, hop, n_mels, floor
        self.frequency_min, self.frequency_max, self.mel_scale = frequency_min, frequency_max, mel_scale
        self.frames = self.frames_in(seconds)
        htk = mel_scale == "htk"
        bank = mel(
            sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=frequency_min, fmax=frequency_max, htk=htk,
            norm=None if htk else "slaney",
        )  # fmt: skip
        self.register_buffer("filterbank", torch.from_numpy(bank.T.copy()), persistent=False)  # (n_fft/2 + 1, M)
        self.register_buffer("window", torch.hann_window(n_fft, periodic=True), persistent=False)

    def frames_in(self, seconds: float) -> int:
        """Frames of so many seconds."""
        return round(seconds * self.sample_rate) // self.hop + 1

    def forward(self, waveform: Tensor) -> Tensor:
        """int16 or float32 `(B, T)` -> log-mel in dB, float32 `(B, T // hop + 1, n_mels)`.

        Stereo, `(B, 2, T)`, is mixed down.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            if waveform.dtype == torch.int16:
                waveform = waveform.float() / INT16_PEAK
            if waveform.ndim == 3:
                waveform = waveform.mean(dim=1)
            spectrum = torch.stft(
                waveform.float(), self.n_fft, self.hop, window=self.window, center=True, pad_mode="reflect",
                return_complex=True,
            )  # (B, n_fft/2 + 1, F)  # fmt: skip
            power = spectrum.real.square() + spectrum.imag.square()
            return 10.0 * torch.log10((power.transpose(1, 2) @ self.filterbank).clamp_min(self.floor))
