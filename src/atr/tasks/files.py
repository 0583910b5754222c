"""Writing checkpoints: a `.ckpt` of tensors and plain values, its weights beside it, each file whole or not there."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning.plugins import TorchCheckpointIO
from safetensors.torch import save
from torch import Tensor

from atr.checkpoint import PREFIX, SCALE, WEIGHTS
from atr.errors import CheckpointError

PART = ".part"
PLAIN = (str, int, float, bool, type(None))


class WholeFiles(TorchCheckpointIO):
    """Writes beside the old files and then takes their names, so that a kill leaves the old ones or the new ones.

    Lightning's own way goes through the system's temporary folder, and from another file system it copies over the
    old file. Beside `NAME.ckpt` the model's weights alone stand in `NAME.safetensors`, with what `atr.load` needs.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint and its weights; the folder is made if it is not there.

        Raises:
            CheckpointError: a value is neither tensor nor plain, or the files cannot be written; the old ones stay.
        """
        path = Path(path)
        content = plain(checkpoint, "checkpoint")
        # One name for all parts of a folder: what a kill leaves is written over by the next checkpoint.
        parts = [path.with_name(f"checkpoint{PART}"), path.with_name(f"weights{PART}")]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(parts[0], lambda file: torch.save(content, file))
            _write(parts[1], lambda file: file.write(weights_alone(content)))
            for part, name in zip(parts, (path, path.with_suffix(WEIGHTS)), strict=True):
                part.replace(name)
            _to_disk(path.parent)
        except (OSError, RuntimeError) as error:  # torch's writer has only a RuntimeError for a full disk
            for part in parts:
                part.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise CheckpointError(
                f"{path} cannot be written ({reason}); what stood there before is unchanged. Make room or give "
                "another run_dir, and go on with resume=auto"
            ) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint and its weights."""
        for name in (Path(path), Path(path).with_suffix(WEIGHTS)):
            name.unlink(missing_ok=True)


def plain(value: Any, place: str) -> Any:
    """A copy whose dicts are `dict`; tensors, tuples, lists, str, numbers, bool and None stay as they are.

    Raises:
        CheckpointError: something else, which `weights_only=True` would refuse to read, or read as code.
    """
    if isinstance(value, dict):
        return {plain(key, place): plain(item, f"{place}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item, f"{place}[{number}]") for number, item in enumerate(value))
    if type(value) in (Tensor, *PLAIN):
        return value
    if isinstance(value, Tensor):  # a Parameter
        return value.detach().as_subclass(Tensor)
    raise CheckpointError(
        f"{place} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors, dict, list, "
        "str, numbers and None. Change what puts it there (a callback's state_dict, an optimizer)"
    )


def weights_alone(checkpoint: dict[str, Any]) -> bytes:
    """The model's weights in the safetensors format; `atr`, step and log scale are its metadata."""
    state = checkpoint.get("state_dict", {})
    tensors = {
        name.removeprefix(PREFIX): value.to("cpu", copy=True).contiguous()  # a copy: shared memory is refused
        for name, value in state.items()
        if name.startswith(PREFIX)
    }
    metadata = {"format": "pt", "atr": json.dumps(checkpoint.get("atr")), "step": str(checkpoint.get("global_step"))}
    if SCALE in state:
        metadata["log_scale"] = repr(float(state[SCALE]))
    return save(tensors, metadata)


def clear_parts(folder: Path) -> None:
    """Removes what killed runs left half written; a run that is writing holds a lock on its part."""
    for part in folder.glob(f"*/checkpoints/*{PART}"):
        try:
            with part.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
        except OSError:
            continue  # being written, gone, or not ours to remove


def _write(part: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file to the disk itself."""
    with part.open("wb") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _to_disk(folder: Path) -> None:
    """The names in a folder are on the disk, too; some network file systems know no such thing."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)
