"""What the mteb adapter does with data: batches -> embeddings, the training data of a run -> names of mteb's tasks."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.progress import track
from torch.utils.data import DataLoader

from atr.errors import DataError, UsageError
from atr.inference import AudioTextModel, Sound
from atr.pipeline.datamodule import by_corpus

# Corpora as `atr prepare` names them -> how the names of mteb's tasks on the same recordings begin. Collections whose
# recordings are only partly known to be in a task (WavCaps, LAION-Audio, …) are left out: with them it is not known.
TASKS_OF_CORPUS: Mapping[str, tuple[str, ...]] = {
    "audiocaps": ("AudioCaps",),
    "audioset": ("AudioSet", "AudioCaps"),  # AudioCaps captions clips of AudioSet
    "auto_acd": ("AudioSet", "AudioCaps", "VGGSound"),
    "birdset": ("BirdSet",),
    "clotho": ("Clotho",),
    "common_language": ("CommonLanguage",),
    "crema_d": ("CREMA",),
    "esc10": ("ESC50",),  # 400 of its clips
    "esc50": ("ESC50",),
    "fsd50k": ("FSD50K", "FSD2019Kaggle"),
    "gtzan": ("GTZAN",),
    "inatsounds": ("INatSounds",),
    "macs": ("MACS", "TAUAcousticScenes"),  # MACS captions scenes of TAU 2019
    "openmic": (),
    "ravdess": ("RAVDESS", "Ravdess"),
    "tau2019": ("MACS", "TAUAcousticScenes"),
    "tau2020_mobile": ("MACS", "TAUAcousticScenes"),
    "urbansound8k": ("UrbanSound8",),
    "vggsound": ("VGGSound",),
}


def encode_loader(model: AudioTextModel, inputs: "DataLoader[Any]", progress: bool = True) -> np.ndarray:
    """Embeds what mteb hands over: a loader over a data set with `features`, of which `text` and `audio` are used.

    Returns:
        float32 `(N, D)`, unit norm; where a row has both, the sum of the two (as mteb's own CLAP wrapper has it).

    Raises:
        DataError: a sound cannot be used; the message gives its row.
        UsageError: the data set has neither.
    """
    features = inputs.dataset.features  # type: ignore[attr-defined]
    kinds = [kind for kind in ("text", "audio") if kind in features]
    if not kinds:
        raise UsageError(f"a data set with the columns {sorted(features)}: this model takes text and audio")
    loader = DataLoader(
        _as_files(inputs.dataset), inputs.batch_size, collate_fn=as_lists, num_workers=inputs.num_workers
    )
    parts = [np.zeros((0, model.clap.dim), np.float32)]
    row = 0
    for batch in track(loader, f"embedding {' and '.join(kinds)}", transient=True, disable=not progress):
        both = []
        if "text" in kinds:
            both.append(model.encode_text(batch["text"]))
        if "audio" in kinds:
            try:
                both.append(model.encode_audio([sound_of(item) for item in batch["audio"]], progress=False))
            except DataError as error:
                raise DataError(f"in rows {row} to {row + len(batch['audio']) - 1} of the task: {error}") from error
        parts.append(np.sum([embeddings.numpy() for embeddings in both], axis=0))
        row += len(both[0])
    return np.concatenate(parts)


def as_lists(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """A batch as column -> values. Sounds of different lengths cannot be stacked, and need not be."""
    return {column: [row[column] for row in rows] for column in rows[0]}


def sound_of(item: Any) -> Sound:
    """One sound of mteb's, as `encode_audio` takes it: its samples with their rate, or its file.

    Args:
        item: `array`, `(T,)` or `(channels, T)`, and `sampling_rate` in Hz; or `bytes` and `path` of a file.
    """
    if isinstance(item, Mapping) and "array" not in item:
        if item["bytes"] is None:
            return str(item["path"])
        file = BytesIO(item["bytes"])
        file.name = item["path"] or "a sound without a name"  # what messages call it
        return file
    array = np.asarray(item["array"])
    return (array.T if array.ndim == 2 else array), int(item["sampling_rate"])


def _as_files(data: Any) -> Any:
    """The data set with its sound as undecoded files, which then are decoded as all our files are.

    Elsewhere `datasets` decodes by torchcodec, which has to match torch and FFmpeg. A column that the task wants at a
    certain rate or number of channels is left to it.
    """
    from datasets import Audio  # comes with mteb

    column = data.features.get("audio") if hasattr(data, "cast_column") else None
    if isinstance(column, Audio) and column == Audio():
        return data.cast_column("audio", Audio(decode=False))
    return data


def training_tasks(config: DictConfig, tasks: Iterable[str]) -> tuple[set[str] | None, str]:
    """Which of mteb's tasks have recordings that a run was trained on, by the names of its shards' folders.

    Args:
        config: of the run.
        tasks: names of mteb's tasks.

    Returns:
        Their names, or None where that is not known; and why it is not.
    """
    if config.get("init"):
        return None, f"it began from the weights of {config.init}, whose data are not on record"
    if not (config.get("data") and config.data.get("train")):
        return None, "the file does not name them"
    begins: set[str] = set()
    for name, place in ((name, place) for name, places in by_corpus(config.data.train).items() for place in places):
        known = {name, *str(place).replace("\\", "/").split("/")} & TASKS_OF_CORPUS.keys()
        if not known:
            return None, f"no known corpus is named in {place}"
        begins.update(*(TASKS_OF_CORPUS[corpus] for corpus in known))
    return {task for task in tasks if task.startswith(tuple(begins))}, ""
