"""A `Clap` as a folder of `transformers`: `ClapModel` with its `ClapProcessor`, and whether it computes the same."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atr.errors import CheckpointError
from atr.interop.agreement import (
    CAPTIONS,
    LABELS,
    Agreement,
    as_float,
    encode_captions,
    encode_sounds,
    least_cosine,
    most_difference,
    sounds,
)
from atr.models.clap import Clap
from atr.models.fusion import REDUCTION
from atr.models.htsat import PATCH
from atr.models.mapping import BUFFERS_HF, to_hf

ROBERTA = ("roberta", "xlm-roberta", "camembert", "clap_text_model")  # one architecture under several names
TEXT_FIELDS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
    "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
EPS = 1e-5  # of the norms of `ClapAudioModel` that its configuration does not reach
FUSED_MELS = 64  # into which `ClapFeatureExtractor` squeezes sound that is longer
FLOOR = 1e-10  # smallest power in `ClapFeatureExtractor`
TEMPLATE = "The sound of {}"
PROMPTS = [TEMPLATE.format(label) for label in LABELS]


def obstacles(clap: Clap) -> Iterator[str]:
    """What of a model `ClapModel` cannot represent, each with what to train instead."""
    inner, mel = clap.text.inner, clap.mel
    if inner.config.model_type not in ROBERTA or getattr(inner.config, "is_decoder", False):
        yield f"its text encoder is a {type(inner).__name__}, ClapModel's RoBERTa (train with model/text=roberta_base)"
    elif clap.text.pooling != "pooler":
        yield f"model.text.pooling is {clap.text.pooling}, ClapModel's pooler (train with model.text.pooling=pooler)"
    stages: list[Any] = list(clap.audio.layers)
    windows = [math.isqrt(stage.blocks[0].attn.area) for stage in stages]
    if len(set(windows)) > 1:
        yield (
            f"the last stage of the audio encoder has {windows[-1]} x {windows[-1]} places, fewer than a window of "
            f"{windows[0]} x {windows[0]}; ClapModel has one window for all stages (train with "
            f"model.audio.window={windows[-1]})"
        )
    if mel.seconds != round(mel.seconds):
        yield f"it hears {mel.seconds:g} s, ClapFeatureExtractor whole seconds (train with model.mel.seconds=5)"
    if mel.floor != FLOOR:
        yield f"model.mel.floor is {mel.floor:g}, ClapFeatureExtractor's {FLOOR:g}"
    fused = clap.audio.fusion is not None
    if fused != (mel.mel_scale == "htk"):
        yield (
            f"model.mel.mel_scale is {mel.mel_scale}; ClapFeatureExtractor has htk with fusion and slaney without "
            f"(train with model.mel.mel_scale={'htk' if fused else 'slaney'})"
        )
    if fused and mel.n_mels != FUSED_MELS:
        yield f"it fuses {mel.n_mels} mel bins, ClapFeatureExtractor {FUSED_MELS} (train with model.mel.n_mels=64)"
    if any(norm.eps != EPS for norm in audio_norms(clap)):
        yield f"a norm of the audio encoder has another eps than {EPS:g}, ClapAudioModel's"
    for name in ("audio_projection", "text_projection"):
        layers = [type(layer) for layer in clap.get_submodule(name).children()]
        if layers != [nn.Linear, nn.ReLU, nn.Linear]:
            yield f"{name} is {', '.join(layer.__name__ for layer in layers)}, ClapModel's Linear, ReLU, Linear"


def audio_norms(clap: Clap) -> list[Any]:
    """All norms of the audio encoder."""
    return [module for module in clap.audio.modules() if isinstance(module, nn.LayerNorm | nn.BatchNorm2d)]


def clap_config(clap: Clap, log_scale: float) -> Any:
    """The `ClapConfig` of a model; every number is the model's own."""
    from transformers import ClapAudioConfig, ClapConfig, ClapTextConfig

    audio, text = clap.audio, clap.text.inner.config
    stages: list[Any] = list(audio.layers)
    first, last = stages[0].blocks[0], stages[-1].blocks[-1]
    audio_config = ClapAudioConfig(
        num_mel_bins=audio.n_mels, spec_size=audio.picture_size, patch_size=PATCH, patch_stride=[PATCH, PATCH],
        patch_embeds_hidden_size=audio.patch_embed.out_channels, hidden_size=audio.dim, num_hidden_layers=len(stages),
        depths=[len(stage.blocks) for stage in stages],
        num_attention_heads=[stage.blocks[0].attn.heads for stage in stages],
        window_size=math.isqrt(first.attn.area), mlp_ratio=first.mlp.fc1.out_features / first.mlp.fc1.in_features,
        hidden_act="gelu", hidden_dropout_prob=0.0, drop_path_rate=float(last.drop_path), layer_norm_eps=EPS,
        enable_fusion=audio.fusion is not None, fusion_type="aff_2d" if audio.fusion is not None else None,
        aff_block_r=REDUCTION,
    )  # fmt: skip
    return ClapConfig(
        text_config=ClapTextConfig(**{name: getattr(text, name) for name in TEXT_FIELDS}),
        audio_config=audio_config, projection_dim=clap.dim, logit_scale_init_value=math.exp(log_scale),
    )  # fmt: skip


def write(folder: Path, clap: Clap, log_scale: float) -> None:
    """Writes model, tokenizer and preprocessor into a folder.

    Raises:
        CheckpointError: a tensor has no place in `ClapModel`.
    """
    from transformers import ClapModel

    model = ClapModel(clap_config(clap, log_scale))
    try:
        tensors = to_hf(clap.state_dict())
    except KeyError as error:
        raise CheckpointError(f"ClapModel has no place for the tensor {error}") from error
    tensors |= {"logit_scale_a": torch.tensor(log_scale), "logit_scale_t": torch.tensor(log_scale)}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or [key for key in missing if not BUFFERS_HF.fullmatch(key)]:
        raise CheckpointError(f"ClapModel's tensors are others: {[*missing, *unexpected][:3]}")
    model.save_pretrained(folder)
    write_tokenizer(folder, clap)
    extractor(clap).save_pretrained(folder)


def write_tokenizer(folder: Path, clap: Clap) -> None:
    """Writes the tokenizer; it truncates at the model's length and gives what `ClapModel` takes."""
    tokenizer = clap.text.tokenizer.inner
    tokenizer.model_max_length = clap.text.tokenizer.max_tokens
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)


def extractor(clap: Clap) -> Any:
    """The `ClapFeatureExtractor` that computes a model's log-mel."""
    from transformers import ClapFeatureExtractor

    mel = clap.mel
    return ClapFeatureExtractor(
        feature_size=mel.n_mels, sampling_rate=mel.sample_rate, hop_length=mel.hop, max_length_s=round(mel.seconds),
        fft_window_size=mel.n_fft, frequency_min=mel.frequency_min, frequency_max=mel.frequency_max,
        truncation="rand_trunc" if clap.audio.fusion is None else "fusion", padding="repeatpad",
        processor_class="ClapProcessor",
    )  # fmt: skip


@torch.inference_mode()
def compare(folder: Path, clap: Clap, log_scale: float) -> Agreement:
    """Loads a folder in `transformers` and tries it beside the checkpoint's model, on generated sound and captions."""
    from transformers import ClapModel, ClapProcessor

    theirs = ClapModel.from_pretrained(folder, local_files_only=True).eval()
    processor = ClapProcessor.from_pretrained(folder, local_files_only=True)
    waves = list(sounds(clap.mel.sample_rate, clap.mel.seconds).values())
    heard = extract(processor, clap, waves)
    audio = encode_sounds(clap, waves), theirs.get_audio_features(**heard).pooler_output
    tokens = processor.tokenizer(CAPTIONS, padding=True, truncation=True, return_tensors="pt")
    text = encode_captions(clap, CAPTIONS), theirs.get_text_features(**tokens).pooler_output
    expected = probabilities(clap, audio[0], log_scale)
    if clap.audio.fusion is None:
        found = by_pipeline(theirs, processor, waves)
    else:
        prompts = processor.tokenizer(PROMPTS, padding=True, return_tensors="pt")
        found = theirs(**prompts, **heard).logits_per_audio.softmax(dim=1)
        longer = long_sound(clap, theirs, waves)
        audio = torch.cat([audio[0], longer[0]]), torch.cat([audio[1], longer[1]])
    return Agreement(
        least_cosine(*audio), least_cosine(*text), most_difference(*audio), most_difference(*text),
        most_difference(expected, found),
    )  # fmt: skip


def extract(processor: Any, clap: Clap, waves: list[np.ndarray]) -> Any:
    """What `ClapModel` takes, of sounds that are not longer than the model's."""
    heard = processor.feature_extractor(
        [as_float(wave) for wave in waves], sampling_rate=clap.mel.sample_rate, return_tensors="pt"
    )
    if clap.audio.fusion is not None:
        heard["is_longer"][:] = False  # the extractor marks one of them by chance
    return heard


def long_sound(clap: Clap, theirs: Any, waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Both embeddings `(1, D)` of one sound that is longer; from our crops, as their extractor draws its own."""
    waveform = torch.from_numpy(np.concatenate(waves)).unsqueeze(0)
    views = clap.log_mel(waveform)
    marked = torch.ones(1, 1, dtype=torch.bool)
    return clap.encode_audio(waveform), theirs.get_audio_features(views, is_longer=marked).pooler_output


def probabilities(clap: Clap, audio: Tensor, log_scale: float) -> Tensor:
    """Of each label for each sound, `(N, C)`."""
    text = encode_captions(clap, PROMPTS)
    return (math.exp(log_scale) * audio @ text.T).softmax(dim=1)


def by_pipeline(model: Any, processor: Any, waves: list[np.ndarray]) -> Tensor:
    """The same from `pipeline("zero-shot-audio-classification")`."""
    from transformers import pipeline

    classify = pipeline(
        "zero-shot-audio-classification", model=model, tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )  # fmt: skip
    rows = []
    for wave in waves:
        answers = classify(as_float(wave), candidate_labels=LABELS, hypothesis_template=TEMPLATE)
        scores = {answer["label"]: answer["score"] for answer in answers}
        rows.append([scores[label] for label in LABELS])
    return torch.tensor(rows)
