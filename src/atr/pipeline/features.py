"""What a frozen audio encoder makes of each clip, kept on the disk: an epoch on it decodes and encodes nothing.

One file for each tar: `<folder>/<key>/<SHA-256 of the tar>.safetensors`, whole or not there, mapped into memory. The
key is that of the model and of the window that it heard: the first `seconds` of a clip, decoded and padded as for an
evaluation. So the same folder serves any number of models, windows and corpora.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader

from atr.collection import whole_file
from atr.errors import DataError
from atr.pipeline.collate import Collate
from atr.pipeline.dataset import EvaluationDataset, Listening
from atr.shards.progress import clip_bar
from atr.shards.read import ShardSet
from atr.types import Batch, Draw

FORMAT = 2  # of the files, and of what the loader does to a clip
Encode = Callable[[Tensor], Tensor]  # waveforms (B, T) -> features (B, D) or (B, N, D)


@dataclass
class StoredFeatures(Mapping[str, np.ndarray]):
    """Features by a clip's full name, float32 `(D,)` or `(N, D)`; the files are opened at their first use.

    Attributes:
        places: name -> file and row.
        bad: name -> why there are none.
    """

    places: dict[str, tuple[Path, int]] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    _open: dict[Path, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises DataError for a clip that could not be used when the features were made."""
        if name in self.bad:
            raise DataError(self.bad[name])
        path, row = self.places[name]
        if path not in self._open:
            self._open[path] = _read(path)[1]
        return self._open[path][row].numpy()

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def window_key(model: str, seconds: float, sample_rate: int, stereo: bool) -> str:
    """The name of the folder for what a model, told by its fingerprint, makes of a window of `seconds` s at Hz."""
    return hashlib.sha256(f"{FORMAT} {model} {seconds} {sample_rate} {stereo}".encode()).hexdigest()[:32]


def stored_features(
    sets: Sequence[ShardSet], listening: Listening, encode: Encode, folder: Path, batch_size: int, num_workers: int
) -> StoredFeatures:
    """The features of all clips of the sets; those that are not on the disk are made.

    Of several processes one makes them, and the others wait for it.

    Args:
        listening: decodes; its `features` must be None.
        encode: int16 `(B, T)` on the CPU -> features.
        folder: of this model and window (`window_key`).

    Raises:
        DataError: a file cannot be written, or one that is there is damaged.
    """
    stored = StoredFeatures()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        for shards in sets:
            missing = _look_up(shards, folder, stored)
            with clip_bar(len(missing), bool(missing)) as on_clip:
                for shard, new in _made(shards, missing, listening, encode, batch_size, num_workers, stored.bad):
                    _add(folder, shards, shard, new)
                    for _ in new:
                        on_clip()
            _look_up(shards, folder, stored)
    return stored


def _path(folder: Path, shards: ShardSet, shard: int) -> Path:
    return folder / f"{shards.indexes[shard].sha256}.safetensors"


def _look_up(shards: ShardSet, folder: Path, stored: StoredFeatures) -> list[int]:
    """Enters the clips that are on the disk; returns the numbers of the others."""
    missing = []
    shard_of = shards.shard_of()
    for shard in np.unique(shard_of).tolist():
        path, index = _path(folder, shards, shard), shards.indexes[shard]
        rows = {key: row for row, key in enumerate(_read(path)[0])} if path.exists() else {}
        for number in np.flatnonzero(shard_of == shard).tolist():
            key = index.key(int(shards.numbers[number] - shards.starts[shard]))
            if key in rows:
                stored.places[shards.name(number)] = (path, rows[key])
            else:
                missing.append(number)
    return missing


def _made(
    shards: ShardSet, numbers: list[int], listening: Listening, encode: Encode, batch_size: int, num_workers: int,
    bad: dict[str, str],
) -> Iterator[tuple[int, dict[str, Tensor]]]:  # fmt: skip
    """Each shard with what was made for its clips, by key; a clip that cannot be used is entered in `bad`."""
    shard_of = shards.shard_of()
    places: dict[str, tuple[int, str]] = {}  # of each clip by its full name: its shard, and its key there
    for number in numbers:
        shard = int(shard_of[number])
        key = shards.indexes[shard].key(int(shards.numbers[number] - shards.starts[shard]))
        places[shards.name(number)] = (shard, key)
    order = [Draw(number, 0, number, number) for number in numbers]
    batches: DataLoader[Batch] = DataLoader(
        EvaluationDataset(shards, listening), batch_size, sampler=order, num_workers=num_workers,  # type: ignore[arg-type]
        collate_fn=Collate(_no_tokens),
    )  # fmt: skip
    current, new = -1, dict[str, Tensor]()
    for batch in batches:
        bad |= {one.key: one.reason for one in batch.bad}
        if not batch.samples:
            continue
        for sample, row in zip(batch.samples, encode(batch.waveform).float().cpu(), strict=True):
            shard, key = places[sample.key]
            if shard != current:
                if new:
                    yield current, new
                current, new = shard, {}
            new[key] = row.clone()
    if new:
        yield current, new


def _no_tokens(captions: Sequence[str]) -> dict[str, Tensor]:
    return {name: torch.zeros(len(captions), 1, dtype=torch.int64) for name in ("input_ids", "attention_mask")}


def _add(folder: Path, shards: ShardSet, shard: int, new: dict[str, Tensor]) -> None:
    """Writes the file of a shard, with what was there before."""
    path = _path(folder, shards, shard)
    keys, features = _read(path) if path.exists() else ([], torch.zeros(0))
    rows = dict(zip(keys, features, strict=True)) | new
    with whole_file(path) as part:
        part.write_bytes(save({"features": torch.stack(list(rows.values()))}, {"keys": json.dumps(list(rows))}))


def _read(path: Path) -> tuple[list[str], Tensor]:
    """The keys of a file's rows, and the rows, which are read when they are used."""
    try:
        with safe_open(path, framework="pt") as file:
            keys, features = json.loads((file.metadata() or {})["keys"]), file.get_tensor("features")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is cut off, or no file of features ({error}); delete it, so that it is made again"
        ) from error
    if len(keys) != len(features):
        raise DataError(f"{path} has {len(keys)} keys for {len(features)} rows; delete it, so that it is made again")
    return keys, features
