"""Captions -> vectors: any text encoder of `transformers`, with its tokenizer."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from atr.errors import CheckpointError, UsageError
from atr.types import Loaded

NEW = "pooler."  # masked language models are published without one (roberta-base is); it is trained from scratch


class Tokenizer:
    """A `transformers` tokenizer that always truncates and pads to the longest of the batch.

    Args:
        path: a folder with `tokenizer.json` and `tokenizer_config.json`, or a name on the Hugging Face hub.
        max_tokens: longer captions are cut; special tokens included.
    """

    def __init__(self, path: str, max_tokens: int = 77) -> None:
        self.max_tokens, self.inner = max_tokens, read_tokenizer(path)
        if self.inner.pad_token_id is None or self.inner.mask_token is None:
            raise UsageError(
                f"tokenizer {path!r} has no padding or no mask token; choose one of a masked language model"
            )

    def __call__(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Returns `input_ids` and `attention_mask`, int64 `(M, L)`; no captions give `(0, 1)`."""
        if not captions:
            return {name: torch.zeros(0, 1, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
        tokens = self.inner(
            list(captions), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def __len__(self) -> int:
        return len(self.inner)

    def too_long(self, captions: Sequence[str]) -> int:
        """How many captions are cut because they have more than `max_tokens`."""
        if not captions:
            return 0
        tokens = self.inner(list(captions), verbose=False)["input_ids"]
        return sum(len(one) > self.max_tokens for one in tokens)

    @property
    def mask_token(self) -> str:
        """The text of the mask token."""
        return str(self.inner.mask_token)

    def files(self) -> dict[str, str]:
        """The tokenizer as file name -> content, for a checkpoint."""
        return files_of(self.inner)

    @classmethod
    def from_files(cls, files: Mapping[str, str], max_tokens: int) -> "Tokenizer":
        """The inverse of `files`.

        Raises:
            CheckpointError: a name would leave the folder.
        """
        with unpacked(files) as folder:
            return cls(folder, max_tokens)


def read_tokenizer(path: str) -> Any:
    """A tokenizer of `transformers`: a folder, or a name on the Hugging Face hub.

    Raises:
        UsageError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"tokenizer {path!r} cannot be loaded; give a folder with tokenizer.json, or a name on the Hugging "
            f"Face hub and a network connection ({str(error).splitlines()[0]})"
        ) from error


def files_of(tokenizer: Any) -> dict[str, str]:
    """A tokenizer of `transformers` as file name -> content, for a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_text() for path in sorted(Path(folder).iterdir())}


@contextmanager
def unpacked(files: Mapping[str, str]) -> Iterator[str]:
    """A folder with the files of a checkpoint's tokenizer, for the time of the `with`.

    Raises:
        CheckpointError: a name would leave the folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            if Path(name).name != name:
                raise CheckpointError(
                    f"tokenizer file {name!r} is not a plain file name; the checkpoint is not trusted"
                )
            (Path(folder) / name).write_text(content)
        yield folder


class TextEncoder(nn.Module):
    """A transformer encoder and how its tokens become one vector.

    Args:
        tokenizer: its vocabulary must fit the encoder's.
        name: pretrained weights: a folder or a name on the Hugging Face hub (safetensors only).
        config: an encoder with random weights instead: `model_type` and that type's fields. `vocab_size` and
            the special tokens come from the tokenizer when they are not given.
        pooling: `pooler` (the encoder's own, as CLAP), `first` token, or `mean` over tokens.
        share: of the tensors that the pretrained weights must have; the pooler's are not counted.

    Attributes:
        dim: width of the output.
        loaded: which of `inner`'s tensors came from `name`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        pooling: Literal["pooler", "first", "mean"] = "pooler",
        share: float = 1.0,
    ) -> None:
        super().__init__()
        if (name is None) == (config is None):
            raise UsageError("model.text needs exactly one of `name` (pretrained) and `config` (random weights)")
        if pooling not in ("pooler", "first", "mean"):
            raise UsageError(f"model.text.pooling is {pooling!r}; allowed: pooler, first, mean")
        self.tokenizer, self.pooling = tokenizer, pooling
        self.loaded = Loaded()
        if name is not None:
            self.inner, self.loaded = _pretrained(name)
        else:
            self.inner = _random(config or {}, tokenizer)
        if self.inner.config.vocab_size < len(tokenizer):
            raise UsageError(
                f"the tokenizer has {len(tokenizer)} tokens, the text encoder only {self.inner.config.vocab_size}; "
                "they do not belong together"
            )
        has_pooler = getattr(self.inner, "pooler", None) is not None
        if pooling == "pooler" and not has_pooler:
            raise UsageError(f"{type(self.inner).__name__} has no pooler; set model.text.pooling to first or mean")
        if pooling != "pooler" and has_pooler:
            self.inner.pooler = None  # it would get no gradient
            self.loaded = _without_pooler(self.loaded, self.inner)
        _check_share(self.loaded, share)
        self.dim = int(self.inner.config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 `(M, L)` twice -> `(M, dim)`."""
        output = self.inner(input_ids=input_ids, attention_mask=attention_mask)
        if self.pooling == "pooler":
            return output.pooler_output
        if self.pooling == "first":
            return output.last_hidden_state[:, 0]
        weight = attention_mask.unsqueeze(2).to(output.last_hidden_state.dtype)
        return (output.last_hidden_state * weight).sum(dim=1) / weight.sum(dim=1)

    def config(self) -> dict[str, Any]:
        """The encoder's configuration as plain values, from which `config=` builds the same architecture."""
        return json.loads(self.inner.config.to_json_string(use_diff=False))


def _pretrained(name: str) -> tuple[Any, Loaded]:
    """Loads published weights in float32, ready to be trained; tells which of them were there."""
    from safetensors import SafetensorError
    from transformers import AutoModel

    try:
        model, info = AutoModel.from_pretrained(
            name, use_safetensors=True, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(
            f"text encoder {name!r} cannot be loaded; give a folder with config.json and model.safetensors, or a name "
            f"on the Hugging Face hub and a network connection ({str(error).splitlines()[0]})"
        ) from error
    own = model.state_dict().keys()
    missing = sorted(info["missing_keys"] & own)
    loaded = Loaded(
        name, len(own), missing, sorted(key for key, *_ in info["mismatched_keys"]), sorted(info["unexpected_keys"]),
        sum(key.startswith(NEW) for key in missing),
    )  # fmt: skip
    return model.train(), loaded


def _without_pooler(loaded: Loaded, inner: nn.Module) -> Loaded:
    """What was loaded into the encoder that is left when its pooler is gone."""
    if not loaded.source:
        return loaded
    missing, unfit = ([key for key in keys if not key.startswith(NEW)] for keys in (loaded.missing, loaded.unfit))
    return Loaded(loaded.source, len(inner.state_dict()), missing, unfit, loaded.left_over)


def _check_share(loaded: Loaded, share: float) -> None:
    """Refuses published weights of which too few fit."""
    if not loaded.source or loaded.share >= share:
        return
    lacking = [key for key in loaded.missing if not key.startswith(NEW)]
    raise UsageError(
        f"text encoder {loaded.source!r}: {len(lacking)} of its weights are not in the file"
        + (f" (first: {lacking[0]})" if lacking else "")
        + (f", {len(loaded.unfit)} have another shape (first: {loaded.unfit[0]})" if loaded.unfit else "")
        + f", and {len(loaded.left_over)} there are not the encoder's"
        + (f" (first: {loaded.left_over[0]})" if loaded.left_over else "")
        + f"; {loaded.share:.2f} of the tensors fit, init_share={share:g} is asked for. Give the folder or name that "
        "belongs to this kind of model, or lower init_share"
    )


def _random(config: Mapping[str, Any], tokenizer: Tokenizer) -> Any:
    from transformers import AutoConfig, AutoModel

    inner = tokenizer.inner
    special = {
        "pad_token_id": inner.pad_token_id,
        "bos_token_id": inner.bos_token_id,
        "eos_token_id": inner.eos_token_id,
    }
    fields = {"vocab_size": len(tokenizer)} | special | dict(config)
    return AutoModel.from_config(AutoConfig.for_model(**fields))
