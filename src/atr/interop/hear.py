"""A checkpoint behind the common API of HEAR (https://hearbenchmark.com/hear-api.html).

python -m heareval.embeddings.runner atr.interop.hear --model last.ckpt
hear-validator atr.interop.hear -m last.ckpt
"""

import torch
from torch import Tensor, nn

import atr
from atr.interop.frames import frame_embeddings, frame_seconds, on_device_of

RATES = (16_000, 22_050, 44_100, 48_000)  # in which HEAR has its data, Hz


class HearModel(nn.Module):
    """A model with the attributes that HEAR asks for.

    Attributes:
        sample_rate: of the sound it is given, Hz: the lowest of HEAR's that loses nothing the model hears.
        scene_embedding_size: width of the common space of sound and text.
        timestamp_embedding_size: width of the audio tower.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.model = atr.load(path)
        self.clap = self.model.clap  # so that it has parameters, which `to` moves
        self.sample_rate = next((rate for rate in RATES if rate >= self.model.sample_rate), RATES[-1])
        self.scene_embedding_size, self.timestamp_embedding_size = self.clap.dim, self.clap.audio.dim


def load_model(model_file_path: str) -> HearModel:
    """Loads what `atr.load` takes.

    Raises:
        CheckpointError: the file is not there or is no checkpoint.
    """
    return HearModel(model_file_path)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Clips `(N, T)` in [-1, 1] at `model.sample_rate` -> `(N, scene_embedding_size)`, float32, where the clips are.

    They are what `encode_audio` gives: unit norm, in the space of the captions.
    """
    sounds = [(row, model.sample_rate) for row in audio.detach().cpu().numpy()]
    return on_device_of(model.model).encode_audio(sounds, progress=False).to(audio.device)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Clips `(N, T)` in [-1, 1] at `model.sample_rate` -> embeddings along time, and the middles of their stretches.

    Returns:
        float32 `(N, F, timestamp_embedding_size)`, and float32 `(N, F)` in ms, both where the clips are.
    """
    embeddings = frame_embeddings(on_device_of(model.model), audio, model.sample_rate)
    hop = 1000 * frame_seconds(model.model)
    times = hop * (torch.arange(embeddings.shape[1], device=audio.device) + 0.5)
    inside = max(1, int((times < 1000 * audio.shape[1] / model.sample_rate).sum()))
    return embeddings[:, :inside], times[:inside].expand(len(audio), inside)
