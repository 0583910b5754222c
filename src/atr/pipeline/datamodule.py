"""Shard folders -> batches for the trainer and for evaluation."""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from atr.errors import DataError, UsageError
from atr.models.language import CaptionTokenizer
from atr.models.text import Tokenizer
from atr.pipeline.augment import Augmentation
from atr.pipeline.collate import Collate
from atr.pipeline.dataset import EvaluationDataset, Listening, Loaded, Training, TrainingDataset
from atr.pipeline.ledger import Ledger
from atr.pipeline.mixture import EpochOrder, Mixture
from atr.pipeline.pair import PairMix
from atr.pipeline.sampler import EvaluationOrder, TrainingOrder, check_world
from atr.pipeline.streaming import StreamedClips
from atr.pipeline.text import WordMask, labels_of
from atr.shards.cache import ShardCache
from atr.shards.find import find_shards
from atr.shards.forks import available_processors
from atr.shards.read import Folders, ShardSet
from atr.shards.remote import is_remote

SetFolders = str | Folders | None


class AudioTextData(pl.LightningDataModule):
    """Training, validation and test sets.

    Args:
        train, validation, test: shard folders or URLs, or those of several corpora by name; an empty list or None
            leaves the set out.
        tokenizer: of the model's text encoder, or of its language model.
        seconds: what the model listens to, s.
        sample_rate: Hz.
        batch_size: clips in a global batch, over all devices.
        seed: of the order and of all chance in the loader.
        num_workers: processes that decode; None takes the processors left beside the main process, at most 8.
        stereo: waveforms of two channels.
        mixture: how the corpora of `train` share an epoch.
        transform, word_mask, mix: waveform augmentation, word masking, pair mixing; in training.
        cache, cache_gb: folder and size of the copies of remote shards, 10^9 bytes.
        streaming: the training set is read from front to back and never indexed.
        streaming_clips: that make an epoch then.
        exclude_labels: clips with one of these labels are left out of training and validation.
        only_labels: the test set keeps clips with one of these labels only; empty keeps all.
        label_template: makes captions for training clips that have labels only; None refuses such clips.
        crop: what is heard of longer clips in training: a `random` place, or their `first` seconds.
    """

    def __init__(
        self,
        train: SetFolders,
        validation: SetFolders,
        test: SetFolders,
        tokenizer: Tokenizer | CaptionTokenizer,
        seconds: float,
        sample_rate: int,
        batch_size: int,
        seed: int,
        num_workers: int | None = None,
        stereo: bool = False,
        mixture: Mixture | None = None,
        transform: Augmentation | None = None,
        word_mask: WordMask | None = None,
        mix: PairMix | None = None,
        cache: str = "~/.cache/atr/shards",
        cache_gb: float = 20.0,
        streaming: bool = False,
        streaming_clips: int | None = None,
        exclude_labels: Sequence[str] = (),
        only_labels: Sequence[str] = (),
        label_template: str | None = None,
        crop: Literal["random", "first"] = "random",
    ) -> None:
        super().__init__()
        if crop not in ("random", "first"):
            raise UsageError(f"data.crop is {crop!r}; allowed: random, first")
        self.tokenizer, self.batch_size, self.seed = tokenizer, batch_size, seed
        self.num_workers = default_workers() if num_workers is None else num_workers
        mask = tokenizer.mask_token
        self.listening = Listening(seconds, sample_rate, mask, stereo)
        self.training = Training(seconds, sample_rate, mask, stereo, transform, word_mask, mix, label_template, crop)
        if label_template is not None and "{labels}" not in label_template:
            raise UsageError(f"data.label_template {label_template!r} has no {{labels}} in it")
        self.mixture = mixture or Mixture()
        self.resume_at: tuple[int, int] | None = None  # epoch, batches of it that are done
        self.streaming_clips = streaming_clips
        folders = {"train": train, "validation": validation, "test": test}
        self.streamed = by_corpus(folders.pop("train")) if streaming else {}
        if streaming and streaming_clips is None:
            raise UsageError("data.streaming=true knows no end: set data.streaming_clips, the clips of an epoch")
        remote = any(is_remote(str(one)) for f in folders.values() for ones in by_corpus(f).values() for one in ones)
        # Local data needs no cache, and no home that can be written.
        self.cache = ShardCache(Path(cache).expanduser(), round(cache_gb * 1e9)) if remote else None
        # Opened here, so that a missing folder is reported before a model is trained.
        self.sets = {name: ShardSet(by_corpus(f), self.cache) for name, f in folders.items() if f}
        if streaming and (exclude_labels or vars(self.mixture) != vars(Mixture())):
            name = "data.exclude_labels" if exclude_labels else "data.mixture"
            raise UsageError(f"{name} needs the index; it cannot be used with data.streaming=true")
        for name, shards in self.sets.items():
            leave = [] if name == "test" else exclude_labels
            keep_labels(shards, leave, only_labels if name == "test" else [], must_have=name == "train")
        if "train" in self.sets:
            check_cache(self.sets["train"], self.mixture.window, cache_gb)

    def train_dataloader(self) -> DataLoader[Loaded]:
        """Global batches in the order of (seed, epoch), this rank's part of each."""
        rank, world = self._place()
        if self.streamed:
            return self._streaming_loader(rank, world)
        shards = self.sets["train"]
        order = EpochOrder(shards, self.mixture, self.seed)
        announce = self._announce if any(is_remote(index.place) for index in shards.indexes) else None
        sampler = TrainingOrder(order, self.batch_size, rank, world, self.resume_at, announce, self._ahead(order))
        dataset = TrainingDataset(shards, self.training, self.seed)
        return self._loader(dataset, sampler, self.batch_size // world)

    def val_dataloader(self) -> DataLoader[Loaded] | list:
        """The validation set, each clip once; nothing when there is none.

        Raises:
            UsageError: it has fewer clips than there are devices.
        """
        clips, world = len(self.sets.get("validation", ())), self._place()[1]
        if 0 < clips < world:
            raise UsageError(f"data.validation has {clips} clips for {world} devices; give it {world} or more, or none")
        return self.evaluation_loader("validation") if "validation" in self.sets else []

    def evaluation_loader(self, name: str) -> DataLoader[Loaded]:
        """The clips of a set, each once, with all their captions."""
        stored = name == "validation" and self.training.features is not None
        dataset = EvaluationDataset(self.sets[name], self.training if stored else self.listening)
        rank, world = self._place()
        return self._loader(dataset, EvaluationOrder(len(dataset), rank, world), max(1, self.batch_size // world))

    def labels(self, name: str = "train") -> list[str]:
        """The labels of a small set (up to 10 000 clips); empty for a larger one, and for one that is not there."""
        shards = self.sets.get(name)
        if shards is None or len(shards) > 10_000:
            return []
        return sorted(set().union(*(_labels(shards, number) for number in range(len(shards)))))

    def ledger(self, name: str, limit: float) -> Ledger:
        """An account of a set's bad clips, opened with those that its tars have lost."""
        shards = self.sets.get(name)
        if shards is None:  # streamed: nobody knows how many there are, so those that have come are counted
            return Ledger(None, limit)
        return Ledger(len(shards) + sum(one.clips for one in shards.lost), limit, shards.lost)

    def corpora(self) -> list[str]:
        """The names of the training set's corpora."""
        return list(self.streamed) if self.streamed else self.sets["train"].corpora

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _announce(self, shards: list[int]) -> None:
        """Remote shards are fetched before they are needed."""
        assert self.cache is not None
        indexes = [self.sets["train"].indexes[shard] for shard in shards]
        self.cache.prefetch([(index.place, index.size, index.sha256) for index in indexes if is_remote(index.place)])

    def _ahead(self, order: EpochOrder) -> int:
        """How many clips ahead: a window's."""
        if order.window is None:
            return len(order)
        pairs = zip(order.members, order.counts, strict=True)
        per_shard = [len(m) / len(set(order.shard[m].tolist())) * len(order) / count for m, count in pairs]
        return round(order.window * min(per_shard))

    def _loader(
        self, dataset: TrainingDataset | EvaluationDataset, order: TrainingOrder | EvaluationOrder, batch_size: int
    ) -> DataLoader[Loaded]:
        persistent = self.num_workers > 0 and isinstance(order, TrainingOrder)
        return DataLoader(dataset, batch_size, sampler=order, persistent_workers=persistent, **self._common())

    def _streaming_loader(self, rank: int, world: int) -> DataLoader[Loaded]:
        check_world(self.batch_size, world)
        places = [(place, name) for name, folders in self.streamed.items() for f in folders for place in find_shards(f)]
        seed = [self.seed, *(self.resume_at or (0, 0))]
        batches, local = (self.streaming_clips or 0) // self.batch_size, self.batch_size // world
        dataset = StreamedClips(places, self.training, seed, batches, local, rank)
        return DataLoader(dataset, local, persistent_workers=self.num_workers > 0, **self._common())

    def _common(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "collate_fn": Collate(self.tokenizer),
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _leave_signals_to_main,
        }


def by_corpus(folders: SetFolders) -> dict[str, Sequence[str | Path]]:
    """One folder, a list of them, or lists by name -> lists by name."""
    if not folders:
        return {}
    if isinstance(folders, str):
        return {"": [folders]}
    if isinstance(folders, Mapping):
        return {str(name): [f] if isinstance(f, str) else list(f) for name, f in folders.items()}
    return {"": list(folders)}


def check_cache(shards: ShardSet, window: int | None, cache_gb: float) -> None:
    """Refuses a shuffle window of remote shards that does not fit into the cache twice (this one and the next).

    Raises:
        UsageError: naming the window that would.
    """

    def needed(window: int) -> float:
        total = 0
        for corpus in range(len(shards.corpora)):
            own = (x for x, c in zip(shards.indexes, shards.corpus_of_shard, strict=True) if c == corpus)
            remote = sorted((index.size for index in own if is_remote(index.place)), reverse=True)
            total += sum(remote[: 2 * window])
        return total / 1e9

    widest = len(shards.indexes)
    if needed(window or widest) > cache_gb:
        fits = max((w for w in range(1, widest + 1) if needed(w) <= cache_gb), default=0)
        raise UsageError(
            f"data.mixture.window={'null' if window is None else window} needs {needed(window or widest):.1f} GB of "
            f"cache, data.cache_gb is {cache_gb:g}; set data.cache_gb higher"
            + (f", or data.mixture.window={fits}" if fits else "")
        )


def _labels(shards: ShardSet, number: int) -> set[str]:
    """A sample's labels; none where its json is bad, which is reported when the sample is read."""
    try:
        return set(labels_of(shards.metadata(number)))
    except DataError:
        return set()


def keep_labels(shards: ShardSet, exclude: Sequence[str], only: Sequence[str], must_have: bool = False) -> None:
    """Leaves out clips by label. Reads every json of the set once, when there is something to leave out.

    Args:
        must_have: labels to leave out must stand on some clip, too.

    Raises:
        DataError: such a label or one to keep stands on no clip, or no clip is left.
    """
    if not exclude and not only:
        return
    labels = [_labels(shards, number) for number in range(len(shards))]
    known = set().union(*labels)
    if unknown := [label for label in [*only, *(exclude if must_have else [])] if label not in known]:
        raise DataError(f"no clip has the label {unknown[0]!r}; labels in the data: {', '.join(sorted(known))}")
    keep = [n for n, tags in enumerate(labels) if not tags & set(exclude) and (not only or tags & set(only))]
    if not keep:
        raise DataError(f"no clip is left without {list(exclude)} and with {list(only)}")
    shards.select(keep)


def _leave_signals_to_main(worker: int) -> None:
    """A signal to all processes of a terminal or a job reaches the workers, too; the main one stops them."""
    for one in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(one, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_main_says_so, daemon=True).start()


def _end_when_main_says_so() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


def default_workers() -> int:
    """The processors left beside the main process; 1 to 8."""
    return min(8, max(1, available_processors() - 1))
