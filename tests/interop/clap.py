"""CLAPs of `transformers` with random weights, and what they say to sounds and captions: the reference."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor

from atr.models.text import Tokenizer
from atr.pipeline.audio import INT16_PEAK, to_int16

SMALL = {"patch_embeds_hidden_size": 16, "depths": [1, 1, 2, 1], "num_attention_heads": [2, 2, 4, 8]}
AUDIO = {
    "small": SMALL,
    "tiny": {"patch_embeds_hidden_size": 96, "depths": [2, 2, 6, 2], "num_attention_heads": [4, 8, 16, 32]},
    "base": {"patch_embeds_hidden_size": 128, "depths": [2, 2, 12, 2], "num_attention_heads": [4, 8, 16, 32]},
}
CAPTIONS = ["a dog barks", "rain falls on a roof while somebody walks past, and a bell rings far away", "?"]
RATE = 48_000
LOG_SCALE = 3.21


def small_text(tokenizer: Tokenizer, **changes) -> dict:
    """A text encoder for the demo's tokenizer; `layer_norm_eps` stays at ClapTextConfig's 1e-12."""
    inner = tokenizer.inner
    return {
        "vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "max_position_embeddings": 80, "pad_token_id": inner.pad_token_id,
        "bos_token_id": inner.bos_token_id, "eos_token_id": inner.eos_token_id,
    } | changes  # fmt: skip


def random_clap(text: dict, size: str = "small", fused: bool = False, dim: int = 32, **audio) -> ClapModel:
    """All weights are random, those too that begin as zeros and ones, so that none can be exchanged unseen."""
    torch.manual_seed(5)
    settings = AUDIO[size] | {"enable_fusion": fused} | ({"fusion_type": "aff_2d"} if fused else {}) | audio
    width = settings["patch_embeds_hidden_size"] * 2 ** (len(settings["depths"]) - 1)
    model = ClapModel(ClapConfig(text_config=text, audio_config=settings | {"hidden_size": width}, projection_dim=dim))
    for name, value in model.named_parameters():
        if name.startswith("logit"):
            value.data.fill_(LOG_SCALE)
            continue
        matrix = 1.2 / value[0].numel() ** 0.5 if name.startswith("text") else 0.05  # captions shall differ in much
        scale = 0.2 if value.ndim < 2 or "bias_table" in name else matrix
        norm = value.ndim == 1 and "weight" in name
        value.data = torch.randn_like(value) * scale + (1.0 if norm else 0.0)
    model.audio_model.audio_encoder.batch_norm.running_mean.uniform_(-40, -20)
    model.audio_model.audio_encoder.batch_norm.running_var.uniform_(50, 150)
    return model.eval()


def save(model: ClapModel, tokenizer: Tokenizer, folder: Path, **heard) -> Path:
    """Model and processor as people publish them."""
    fused = model.config.audio_config.enable_fusion
    settings = {"frequency_min": 50, "truncation": "fusion" if fused else "rand_trunc"} | heard
    model.save_pretrained(folder)
    ClapProcessor(ClapFeatureExtractor(**settings), tokenizer.inner).save_pretrained(folder)
    return folder


def sounds() -> list[tuple[np.ndarray, int]]:
    """10 s of chirp and noise, and 3.3 s, which are repeated; their samples are int16 numbers, as atr rounds them."""
    rng = np.random.default_rng(3)
    time = np.arange(10 * RATE) / RATE
    chirp = 0.3 * np.sin(2 * np.pi * (100 + 600 * time) * time) + 0.02 * rng.standard_normal(len(time))
    short = 0.2 * np.sin(2 * np.pi * 440 * time[: int(3.3 * RATE)]) * np.exp(-time[: int(3.3 * RATE)])
    return [(to_int16(one.astype(np.float32))[0] / np.float32(INT16_PEAK), RATE) for one in (chirp, short)]


@torch.inference_mode()
def audio_reference(model: ClapModel, extractor: ClapFeatureExtractor) -> Tensor:
    """`(2, D)`: embeddings of `sounds()`, none of which is longer than a clip."""
    waves = [wave for wave, _ in sounds()]
    features = extractor(waves, sampling_rate=RATE, return_tensors="pt")["input_features"].float()
    longer = torch.zeros(len(waves), 1, dtype=torch.bool)
    pooled = model.audio_model(input_features=features, is_longer=longer).pooler_output
    return torch.nn.functional.normalize(model.audio_projection(pooled), dim=1)


@torch.inference_mode()
def text_reference(model: ClapModel, tokenizer: Tokenizer) -> Tensor:
    """`(3, D)`: embeddings of `CAPTIONS`."""
    tokens = tokenizer.inner(CAPTIONS, padding=True, return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    pooled = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
    return torch.nn.functional.normalize(model.text_projection(pooled), dim=1)
