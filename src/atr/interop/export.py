"""A checkpoint -> a folder for others, which takes its name only when it computes the same as the checkpoint."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from atr.checkpoint import build_model, read_checkpoint, use_tokenizer
from atr.errors import CheckpointError, UsageError
from atr.interop import to_hf, to_onnx
from atr.interop.agreement import Agreement
from atr.interop.card import write_card
from atr.interop.push import check_push, push

Target = Literal["hf", "onnx"]


@dataclass
class Exported:
    """A folder that was written, how it compares with the checkpoint, and where it was uploaded to."""

    folder: Path
    agreement: Agreement
    address: str = ""


def export(
    checkpoint: str | Path,
    folder: str | Path,
    to: Target = "hf",
    licence: str = "",
    repository: str = "",
    tokenizer: str | Path | None = None,
) -> Exported:
    """Writes a model for `transformers` or as ONNX, with its card; loads it again and compares.

    Args:
        checkpoint: anything that `atr.load` takes.
        folder: new, or empty.
        to: `hf`: `ClapModel` and `ClapProcessor`. `onnx`: two encoders.
        licence: of the weights, for the card.
        repository: ORG/NAME on the Hugging Face hub to upload it to.
        tokenizer: a folder or hub name, for checkpoints that carry none (LAION's).

    Raises:
        CheckpointError: the target cannot represent the model, or what was written computes something else.
        UsageError: the folder holds files; nothing can be uploaded.
    """
    folder = Path(folder)
    if to not in get_args(Target):
        raise UsageError(f"--to {to!r}; allowed: {', '.join(get_args(Target))}")
    check_folder(folder)
    if repository:
        check_push(repository)
    read = read_checkpoint(checkpoint)
    use_tokenizer(read, tokenizer)
    if read.log_scale is None:
        raise CheckpointError(f"{read.path} has no logit scale, so no probabilities; export the .ckpt beside it")
    clap = build_model(read)
    target = to_hf if to == "hf" else to_onnx
    if found := list(target.obstacles(clap)):
        raise CheckpointError(f"{read.path} cannot be exported to {to}: {'; '.join(found)}")
    with whole_folder(folder) as part:
        print(f"writing {folder}", file=sys.stderr)
        target.write(part, clap, read.log_scale)
        print("loading it again and comparing", file=sys.stderr)
        agreement = target.compare(part, clap, read.log_scale)
        agreement.check(f"what was to be {folder}")
        name = repository.partition("/")[2] or folder.resolve().name
        write_card(part, read, clap, to, agreement, licence, repository or name, name)
    return Exported(folder, agreement, push(folder, repository) if repository else "")


def check_folder(folder: Path) -> None:
    """Refuses a folder that holds something.

    Raises:
        UsageError: naming it.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} is there already; remove it, or name a folder that is new or empty")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, beside `folder`, whose name it takes at the end; after an error nothing of it is left."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o777 & ~umask)  # temporary folders are closed to others, and so are files of safetensors
        for file in part.iterdir():
            file.chmod(0o666 & ~umask)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
