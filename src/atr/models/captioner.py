"""A caption for a clip: its embedding as the first "words" of a language model (ClipCap, arXiv 2111.09734)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atr.errors import UsageError
from atr.models.clap import Clap
from atr.models.language import CaptionTokenizer

IGNORED = -100  # label of padding


class MlpMapping(nn.Module):
    """An embedding -> the prefix, by two linear layers and a tanh. 20 456 448 parameters with the default values.

    Args:
        dim: of the embedding. width: of the language model's.
        prefix_length: K, how many places of the prefix.
    """

    def __init__(self, dim: int = 512, width: int = 768, prefix_length: int = 8) -> None:
        super().__init__()
        self.prefix_length, self.width = prefix_length, width
        inner = width * prefix_length // 2
        self.layers = nn.Sequential(nn.Linear(dim, inner), nn.Tanh(), nn.Linear(inner, width * prefix_length))

    def forward(self, features: Tensor) -> Tensor:
        """`(B, dim)` -> `(B, K, width)`."""
        return self.layers(features).unflatten(1, (self.prefix_length, self.width))


class TransformerMapping(nn.Module):
    """An embedding -> the prefix: learned constants that attend to tokens made of the clip, and to each other.

    40 955 904 parameters with the default values. Without `frames` the tokens are C linear maps of one embedding, as in
    ClipCap. With it each frame of a clip is projected to one token, and a learned position is added to it: nothing
    else tells the order of frames, and the transformer would not know what was heard first.

    Args:
        dim: of the embedding, or of a frame. width: of the language model's.
        prefix_length: K, how many places of the prefix.
        clip_tokens: C; not used with `frames`.
        layers, heads: of the transformer.
        frames: most frames of a clip; None: one embedding.
    """

    def __init__(
        self,
        dim: int = 512,
        width: int = 768,
        prefix_length: int = 8,
        clip_tokens: int = 8,
        layers: int = 8,
        heads: int = 8,
        frames: int | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UsageError(f"captioner.mapping.heads={heads} does not divide {width}, the language model's width")
        self.prefix_length, self.width, self.frames = prefix_length, width, frames
        self.project = nn.Linear(dim, width if frames else clip_tokens * width)
        self.positions = nn.Parameter(torch.randn(frames, width)) if frames else None
        self.constants = nn.Parameter(torch.randn(prefix_length, width))
        self.layers = nn.Sequential(*(_Layer(width, heads) for _ in range(layers)))

    def forward(self, features: Tensor) -> Tensor:
        """`(B, dim)`, or `(B, N, dim)` with `frames` -> `(B, K, width)`.

        Raises:
            ValueError: more frames than there are positions.
        """
        tokens = self.project(features)
        if self.positions is None:
            tokens = tokens.unflatten(1, (-1, self.width))
        elif tokens.shape[1] > len(self.positions):
            raise ValueError(f"{tokens.shape[1]} frames; this mapping knows the order of {len(self.positions)} at most")
        else:
            tokens = tokens + self.positions[: tokens.shape[1]]
        constants = self.constants.expand(len(tokens), -1, -1)
        return self.layers(torch.cat([tokens, constants], dim=1))[:, -self.prefix_length :]


class _Layer(nn.Module):
    """Attention and an MLP, each with its norm before it, as ClipCap has them: no dropout, no mask, ReLU.

    Source: `transformer_mapper` of rmokady/CLIP_prefix_caption (`train.py`).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, width)` -> the same shape."""
        inside = self.norm1(x)
        keys, values = self.keys_values(inside).chunk(2, dim=2)
        split = [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.queries(inside), keys, values)]
        x = x + self.output(F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Captioner(nn.Module):
    """A contrastive model, a mapping, and a language model that says what the first one heard.

    The contrastive model is frozen: in `eval()`, without gradients. Of the language model what has `requires_grad` is
    trained; when nothing has, it stays in `eval()`, and gradients pass through it to the mapping only.

    Args:
        clap: hears. mapping: `MlpMapping` or `TransformerMapping`, of `feature_dim` and the language model's width.
        language_model: a `GPT2LMHeadModel`. tokenizer: its own.
        temporal: the mapping gets the clip's frames instead of one embedding.

    Attributes:
        dim: of the features. prefix_length: K.
    """

    def __init__(
        self, clap: Clap, mapping: nn.Module, language_model: Any, tokenizer: CaptionTokenizer, temporal: bool = False
    ) -> None:
        super().__init__()
        self.clap = clap.requires_grad_(False)
        self.mapping, self.language_model = mapping, language_model
        self.tokenizer, self.temporal = tokenizer, temporal
        self.dim, self.prefix_length = feature_dim(clap, temporal), int(mapping.prefix_length)  # type: ignore[arg-type]
        places, needed = language_model.config.n_positions, self.prefix_length + tokenizer.max_tokens
        if needed > places:
            raise UsageError(
                f"{self.prefix_length} places of the prefix and captions of {tokenizer.max_tokens} tokens make "
                f"{needed}; the language model has {places}. Lower captioner.tokenizer.max_tokens or the prefix_length"
            )
        if len(tokenizer) > (words := language_model.config.vocab_size):
            raise UsageError(
                f"the tokenizer has {len(tokenizer)} tokens, the language model only {words}; they do not belong "
                "together"
            )
        self.train(self.training)

    def train(self, mode: bool = True) -> "Captioner":
        """Sets the mode of what is trained; what is frozen stays in `eval()`."""
        super().train(mode)
        self.clap.eval()
        if not any(p.requires_grad for p in self.language_model.parameters()):
            self.language_model.eval()
        return self

    @torch.no_grad()
    def features(self, waveform: Tensor) -> Tensor:
        """What the mapping gets of clips, in float32 whatever the autocast around it; no gradient is kept.

        Args:
            waveform: int16 or float32 `(B, T)`.

        Returns:
            `(B, D)`, unit norm; with `temporal` the audio encoder's frames `(B, N, audio.dim)`, which its projection
            was not trained for one by one and is left out for.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            if not self.temporal:
                return self.clap.encode_audio(waveform)
            return self.clap.audio.frames(self.clap.log_mel(waveform)).float()

    def prefix(self, features: Tensor) -> Tensor:
        """`(B, D)` or `(B, N, D')` as of `features` -> `(B, K, width)`, which stands before the embedded words."""
        return self.mapping(features)

    def loss(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Cross-entropy in nats per token, the end token counted and padding not. Arguments as of `losses`."""
        return self.losses(features, input_ids, attention_mask).sum() / attention_mask.sum()

    def losses(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The sum of each caption's cross-entropy, float32 `(M,)`, in nats.

        The logits at places K - 1, K, … predict tokens 0, 1, …; token id 0 is a word like any other ("!").

        Args:
            features: as of `features`, one for each caption.
            input_ids: int64 `(M, L)`, with the end token, padded on the right.
            attention_mask: int64 `(M, L)`, 0 at padding.
        """
        words = self.language_model.get_input_embeddings()(input_ids)
        prefix = self.prefix(features)
        # No mask: what pads on the right is seen by no place before it.
        heard = torch.cat([prefix.to(words.dtype), words], dim=1)
        hidden = self.language_model.transformer(inputs_embeds=heard, use_cache=False).last_hidden_state
        logits = self.language_model.lm_head(hidden[:, self.prefix_length - 1 : -1]).float()  # (M, L, V)
        labels = input_ids.masked_fill(attention_mask == 0, IGNORED)
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
        return each.view_as(labels).sum(dim=1)


def feature_dim(clap: Clap, temporal: bool) -> int:
    """Width of what the mapping gets."""
    return clap.audio.dim if temporal else clap.dim


def frames_of(clap: Clap) -> int:
    """Frames along time of a clip of the model's length (32 for CLAP's 10 s)."""
    return clap.audio.picture_size // clap.audio.n_mels * clap.audio.last_side
