"""What a captioning run does not train, once for all of its checkpoints: `frozen.safetensors` beside them.

A captioner stands on a contrastive model and a language model that are many times as large as what is trained, and do
not change. So they are no part of each checkpoint. Nor are they looked for where the run once found them: paths change
and names on a hub go to other weights. The folder of the checkpoints holds them, and each checkpoint their hash; a
checkpoint is moved together with this file.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from atr.errors import CheckpointError

FILE = "frozen.safetensors"


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors: their names, dtypes, shapes and bytes, by name."""
    digest = hashlib.sha256()
    add_tensors(digest, tensors)
    return digest.hexdigest()


def add_tensors(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    """Updates a hash with tensors, as in `content_hash`."""
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def write_frozen(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Writes `frozen.safetensors` into a folder, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    from atr.collection import whole_file  # which stands on inference, and that on this module

    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / FILE) as part:
        # Not `save_file`, whose files nobody else may read.
        part.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def read_frozen(checkpoint: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors beside a checkpoint; all of them are read once, to compare their hash.

    Raises:
        CheckpointError: they are not there, or others than the checkpoint was trained on.
    """
    path = checkpoint.with_name(FILE)
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint} holds what a captioner trained, and needs {FILE} of its run beside it, with the contrastive "
            f"and the language model (sha256 {sha256[:12]}…); copy both from the run's checkpoints folder"
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is cut off, or of another kind ({error}); copy it from the run again") from error
    if (found := content_hash(tensors)) != sha256:
        raise CheckpointError(
            f"{path} holds other weights (sha256 {found[:12]}…) than {checkpoint.name} was trained on "
            f"({sha256[:12]}…); copy both from the same run"
        )
    return tensors
