"""The language model of a captioner: its tokenizer, its published or random weights, and which of them are trained."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from atr.errors import UsageError
from atr.models.text import files_of, read_tokenizer, unpacked

CONTROL = dict.fromkeys([*range(32), *range(127, 160)], " ")  # characters that change a screen instead of showing
LORA = "c_attn"  # queries, keys and values of GPT-2: one matrix


class CaptionTokenizer:
    """A language model's `transformers` tokenizer: captions -> tokens that end with its end token.

    There is no token before the first word, where the prefix stands.

    Args:
        path: a folder with `tokenizer.json` and `tokenizer_config.json`, or a name on the Hugging Face hub.
        max_tokens: longer captions are cut, and then have no end; the end token included.

    Attributes:
        end: number of the end token: `<|endoftext|>` of GPT-2.
        mask_token: empty: words that are learnt to be written are not hidden.

    Raises:
        UsageError: it cannot be loaded, or has no end token.
    """

    mask_token = ""

    def __init__(self, path: str, max_tokens: int = 77) -> None:
        self.max_tokens, self.inner = max_tokens, read_tokenizer(path)
        if self.inner.eos_token_id is None:
            raise UsageError(f"tokenizer {path!r} has no end token (eos_token); choose one of a language model")
        self.end = int(self.inner.eos_token_id)

    def __call__(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Returns `input_ids` and `attention_mask`, int64 `(M, L)`, padded on the right; no captions give `(0, 1)`."""
        if not captions:
            return {name: torch.zeros(0, 1, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
        rows = [[*row, self.end][: self.max_tokens] for row in self._tokens(captions)]
        longest = max(map(len, rows))
        return {
            "input_ids": torch.tensor([row + [self.end] * (longest - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        }

    def __len__(self) -> int:
        return len(self.inner)

    def too_long(self, captions: Sequence[str]) -> int:
        """How many captions are cut because they have more than `max_tokens`."""
        return sum(len(row) >= self.max_tokens for row in self._tokens(captions)) if captions else 0

    def decode(self, rows: Sequence[Sequence[int]] | Tensor) -> list[str]:
        """Tokens -> captions: what stands before the first end token, without special tokens and control characters.

        Words have single blanks between them; there are none at the ends.
        """
        rows = rows.tolist() if isinstance(rows, Tensor) else rows
        ended = [list(row[: row.index(self.end)] if self.end in row else row) for row in rows]
        texts = [str(self.inner.decode(row, skip_special_tokens=True)) for row in ended]
        return [" ".join(text.translate(CONTROL).split()) for text in texts]

    @functools.cached_property
    def blank(self) -> list[int]:
        """The tokens of which nothing is seen, alone: blanks, control characters, the end and other special tokens."""
        texts = self.decode([[token] for token in range(len(self))])
        return [token for token, text in enumerate(texts) if not text]

    def files(self) -> dict[str, str]:
        """The tokenizer as file name -> content, for a checkpoint."""
        return files_of(self.inner)

    @classmethod
    def from_files(cls, files: Mapping[str, str], max_tokens: int) -> "CaptionTokenizer":
        """The inverse of `files`.

        Raises:
            CheckpointError: a name would leave the folder.
        """
        with unpacked(files) as folder:
            return cls(folder, max_tokens)

    def _tokens(self, captions: Sequence[str]) -> list[list[int]]:
        return self.inner(list(captions), add_special_tokens=False, verbose=False)["input_ids"]


def language_model(
    tokenizer: CaptionTokenizer,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    train: Literal["nothing", "lora", "all"] = "nothing",
    rank: int = 8,
    scale: float = 2.0,
) -> Any:
    """A `GPT2LMHeadModel`, float32, of which only what is to be trained has `requires_grad`.

    Args:
        tokenizer: its vocabulary must fit the model's.
        name: published weights: a folder or a name on the Hugging Face hub (safetensors only).
        config: random weights instead: fields of `GPT2Config`; `vocab_size` and the end token come from the tokenizer
            when they are not given.
        train: `nothing` (only the mapping is trained), `lora` (corrections of low rank to the attention's queries, keys
            and values), or `all`.
        rank, scale: of `lora`.

    Raises:
        UsageError: the weights cannot be loaded, or a value has no meaning.
    """
    from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

    if (name is None) == (config is None):
        raise UsageError(
            "captioner.language_model needs exactly one of `name` (published) and `config` (random weights)"
        )
    if train not in ("nothing", "lora", "all"):
        raise UsageError(f"captioner.language_model.train is {train!r}; allowed: nothing, lora, all")
    if name is not None:
        model = _published(name)
    else:
        fields = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end}
        given = {name: value for name, value in dict(config or {}).items() if "attn_implementation" not in name}
        model = GPT2LMHeadModel(GPT2Config(**(fields | given)))
    model.generation_config = GenerationConfig()  # a published one would decide what `Decoding` leaves open
    model.requires_grad_(train == "all")
    if train == "lora":
        add_lora(model, rank, scale)
    return model


def config_of(model: Any) -> dict[str, Any]:
    """A language model's configuration as plain values, from which `config=` builds the same architecture."""
    fields: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return fields


def _published(name: str) -> Any:
    from safetensors import SafetensorError
    from transformers import GPT2LMHeadModel

    model: Any
    info: Any
    try:
        model, info = GPT2LMHeadModel.from_pretrained(  # type: ignore[misc]
            name, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(
            f"language model {name!r} cannot be loaded; give a folder with GPT-2's config.json and model.safetensors, "
            f"or a name on the Hugging Face hub and a network connection ({str(error).splitlines()[0]})"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise UsageError(
            f"language model {name!r}: {len(missing)} of its weights are not in the file (first: {missing[0]}); give a "
            "GPT-2"
        )
    return model


class Lora(nn.Module):
    """A linear layer that is kept, and a correction of low rank that is trained (arXiv 2106.09685).

    The correction begins as 0. Own lines, as `peft` would bring another package's names into the checkpoints, and two
    more dependencies, for these.

    Args:
        inner: GPT-2's `Conv1D`: a linear layer whose weight is `(in, out)`.
        rank: of the correction. scale: what it is multiplied by (alpha / rank).
    """

    def __init__(self, inner: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        width, out = inner.weight.shape  # type: ignore[misc]
        self.inner, self.scale = inner, scale
        self.down = nn.Parameter(torch.randn(width, rank) / width**0.5)
        self.up = nn.Parameter(torch.zeros(rank, out))

    def forward(self, x: Tensor) -> Tensor:
        """`(…, in)` -> `(…, out)`."""
        return self.inner(x) + self.scale * (x @ self.down @ self.up)


def add_lora(model: Any, rank: int, scale: float) -> None:
    """Puts a `Lora` around the attention's queries, keys and values in each block of a GPT-2.

    Raises:
        UsageError: the rank or the scale is no number to work with.
    """
    if not isinstance(rank, int) or rank < 1 or not scale > 0:
        raise UsageError(
            f"captioner.language_model: rank={rank!r} and scale={scale!r}; rank is 1 or more, scale above 0"
        )
    for block in model.transformer.h:
        setattr(block.attn, LORA, Lora(getattr(block.attn, LORA), rank, scale))
