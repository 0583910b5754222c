"""A checkpoint as a model of mteb (https://github.com/embeddings-benchmark/mteb): `pip install "atr[mteb]"`."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

import atr
from atr.checkpoint import read_checkpoint
from atr.errors import UsageError
from atr.inference import AudioTextModel
from atr.interop.mteb_data import encode_loader, training_tasks

try:
    import mteb
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
except ModuleNotFoundError as error:
    raise UsageError(f'this needs mteb: pip install "atr[mteb]" ({error})') from error


class MtebEncoder(AbsEncoder):
    """Embeds the clips and captions of mteb's tasks, each as `atr.load` does.

    Args:
        model_name: what `atr.load` takes.
        revision: tells one state of a model from another in mteb's results; a hash of its weights when None.
        device: `cpu`, `cuda`, …; the best there is when None.
        meta: fields of mteb's `ModelMeta` that the weights cannot tell: `name`, `languages`, `license`,
            `training_datasets`, `release_date`, …
    """

    def __init__(self, model_name: str, revision: str | None = None, device: str | None = None, **meta: Any) -> None:
        self.model = atr.load(model_name)
        if device is not None:
            self.model.device = torch.device(device)
            self.model.clap.to(self.model.device)
        self.mteb_model_meta = ModelMeta(**_described(model_name, revision, self.model) | meta)

    def encode(
        self,
        inputs: "DataLoader[Any]",
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """float32 `(N, D)` of a task's rows; see `encode_loader`. The same for queries and documents."""
        return encode_loader(self.model, inputs, kwargs.get("show_progress_bar", True))


def _described(model_name: str, revision: str | None, model: AudioTextModel) -> dict[str, Any]:
    """The fields of `ModelMeta` that are known; what is not known is None, as mteb wants it."""
    name, trained_on = _origin(model_name)
    clap = model.clap
    return {
        "loader": partial(_load_again, model_name),
        "name": name,
        "revision": revision or model.fingerprint()[:12],
        "release_date": None,
        "languages": None,
        "n_parameters": sum(parameter.numel() for parameter in clap.parameters()),
        "memory_usage_mb": sum(tensor.nbytes for tensor in clap.state_dict().values()) / 2**20,
        "max_tokens": clap.text.tokenizer.max_tokens,
        "embed_dim": clap.dim,
        "license": None,
        "open_weights": None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": ["PyTorch"],
        "similarity_fn_name": "cosine",
        "use_instructions": False,
        "training_datasets": trained_on,
        "modalities": ["audio", "text"],
    }


def _origin(model_name: str) -> tuple[str, set[str] | None]:
    """A model's name with an organisation, and the tasks whose data it was trained on, None where that is not known."""
    config = read_checkpoint(model_name).config
    tasks = [task.metadata.name for task in mteb.get_tasks(modalities=["audio"], exclude_superseded=False)]
    trained_on, reason = training_tasks(config, tasks)
    if reason:
        warnings.warn(
            f"{model_name}: mteb is told that the training data are not known, since {reason}. If you know which of "
            "its tasks they overlap with, give training_datasets={…}",
            stacklevel=4,
        )
    on_disk = Path(model_name).exists()
    return f"atr/{config.get('name') or Path(model_name).stem}" if on_disk else model_name, trained_on


def _load_again(model_name: str, name: str, revision: str | None = None, **kwargs: Any) -> MtebEncoder:
    """What mteb calls to load a model of which it has the description; `name` is that of the description."""
    return MtebEncoder(model_name, revision, **kwargs)
