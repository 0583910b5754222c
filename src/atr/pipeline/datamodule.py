"""Shard folders -> batches for the trainer and for evaluation."""

import hashlib
import os
import signal
from collections.abc import Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from atr.errors import DataError
from atr.models.text import Tokenizer
from atr.pipeline.audio import to_int16
from atr.pipeline.augment import Augmentation
from atr.pipeline.dataset import ClipDataset, EvaluationDataset, Loaded, TrainingDataset
from atr.pipeline.sampler import EvaluationOrder, TrainingOrder
from atr.pipeline.text import WordMask, labels_of
from atr.shards.read import ShardSet
from atr.types import Batch


class AudioTextData(pl.LightningDataModule):
    """Training, validation and test sets, each a list of shard folders.

    Args:
        train, validation, test: shard folders; an empty list leaves the set out.
        tokenizer: of the model's text encoder.
        seconds: what the model listens to, s.
        sample_rate: Hz.
        batch_size: clips in a global batch, over all devices.
        seed: of the order and of all chance in the loader.
        num_workers: processes that decode; None takes the processors left beside the main process, at most 8.
        transform: waveform augmentation in training.
        word_mask: word masking in training.
        exclude_labels: clips with one of these labels are left out of training and validation.
        only_labels: the test set keeps clips with one of these labels only; empty keeps all.
    """

    def __init__(
        self,
        train: Sequence[str],
        validation: Sequence[str],
        test: Sequence[str],
        tokenizer: Tokenizer,
        seconds: float,
        sample_rate: int,
        batch_size: int,
        seed: int,
        num_workers: int | None = None,
        transform: Augmentation | None = None,
        word_mask: WordMask | None = None,
        exclude_labels: Sequence[str] = (),
        only_labels: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.tokenizer, self.seconds, self.sample_rate = tokenizer, seconds, sample_rate
        self.batch_size, self.seed = batch_size, seed
        self.num_workers = default_workers() if num_workers is None else num_workers
        self.transform, self.word_mask = transform, word_mask
        self.resume_at: tuple[int, int] | None = None  # epoch, batches of it that are done
        # Opened here, so that a missing folder is reported before a model is trained.
        folders = {"train": train, "validation": validation, "test": test}
        self.sets = {name: ShardSet([f] if isinstance(f, str) else f) for name, f in folders.items() if f}
        if exclude_labels and (unknown := sorted(set(exclude_labels) - set(self.labels()))):
            raise DataError(f"no clip has the label {unknown[0]!r}; labels in the data: {', '.join(self.labels())}")
        for name, shards in self.sets.items():
            keep_labels(shards, [] if name == "test" else exclude_labels, only_labels if name == "test" else [])

    def train_dataloader(self) -> DataLoader[Loaded]:
        """Global batches in the order of (seed, epoch), this rank's part of each."""
        mask_token = self.tokenizer.mask_token
        dataset = TrainingDataset(
            self.sets["train"],
            self.seconds,
            self.sample_rate,
            mask_token,
            self.seed,
            self.transform,
            self.word_mask,
        )
        rank, world = self._place()
        order = TrainingOrder(len(dataset), self.batch_size, self.seed, rank, world, self.resume_at)
        return self._loader(dataset, order, self.batch_size // world)

    def val_dataloader(self) -> DataLoader[Loaded] | list:
        """The validation set, each clip once; nothing when there is none."""
        return self.evaluation_loader("validation") if "validation" in self.sets else []

    def evaluation_loader(self, name: str) -> DataLoader[Loaded]:
        """The clips of a set, each once, with all their captions."""
        dataset = EvaluationDataset(self.sets[name], self.seconds, self.sample_rate, self.tokenizer.mask_token)
        rank, world = self._place()
        return self._loader(dataset, EvaluationOrder(len(dataset), rank, world), max(1, self.batch_size // world))

    def labels(self, name: str = "train") -> list[str]:
        """The labels of a small set (up to 10 000 clips); empty for a larger one, and for one that is not there."""
        shards = self.sets.get(name)
        if shards is None or len(shards) > 10_000:
            return []
        return sorted(set().union(*(_labels(shards, number) for number in range(len(shards)))))

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(
        self, dataset: ClipDataset, order: TrainingOrder | EvaluationOrder, batch_size: int
    ) -> DataLoader[Loaded]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=order,
            num_workers=self.num_workers,
            collate_fn=Collate(self.tokenizer),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_ctrl_c_to_main,
            persistent_workers=self.num_workers > 0 and isinstance(order, TrainingOrder),
        )


class Collate:
    """Samples -> `Batch`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, loaded: Sequence[Loaded]) -> Batch:
        """Quantises, tokenises and numbers the good samples, maybe none; carries the bad ones along."""
        samples = [sample for sample, _ in loaded if sample is not None]
        bad = [one for _, skipped in loaded for one in skipped]
        waveforms = [torch.from_numpy(to_int16(sample.waveform)[0]) for sample in samples]
        clipped = sum(sample.clipped for sample in samples)
        for sample in samples:
            sample.waveform = np.empty(0, np.float32)  # travels in the batch
        tokens = self.tokenizer([text for sample in samples for text in sample.spoken])
        return Batch(
            waveform=torch.stack(waveforms) if waveforms else torch.zeros(0, 1, dtype=torch.int16),
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            clip_id=_ids([sample.key for sample in samples]),
            source_id=_ids([sample.source or sample.key for sample in samples]),
            label_id=_ids(["\n".join(sorted(sample.labels)) or sample.key for sample in samples]),
            caption_id=_ids([caption for sample in samples for caption in sample.captions]),
            samples=samples,
            clipped=clipped,
            bad=bad,
        )


def _ids(names: Sequence[str]) -> torch.Tensor:
    """63-bit hashes, the same in every process."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(digest, "little") >> 1 for digest in digests], dtype=torch.int64)


def _labels(shards: ShardSet, number: int) -> set[str]:
    """A sample's labels; none where its json is bad, which is reported when the sample is read."""
    try:
        return set(labels_of(shards.metadata(number)))
    except DataError:
        return set()


def keep_labels(shards: ShardSet, exclude: Sequence[str], only: Sequence[str]) -> None:
    """Leaves out clips by label. Reads every json of the set once, when there is something to leave out.

    Raises:
        DataError: a label to keep stands on no clip, or no clip is left.
    """
    if not exclude and not only:
        return
    labels = [_labels(shards, number) for number in range(len(shards))]
    known = set().union(*labels)
    if unknown := [label for label in only if label not in known]:
        raise DataError(f"no clip has the label {unknown[0]!r}; labels in the data: {', '.join(sorted(known))}")
    keep = [n for n, tags in enumerate(labels) if not tags & set(exclude) and (not only or tags & set(only))]
    if not keep:
        raise DataError(f"no clip is left without {list(exclude)} and with {list(only)}")
    shards.select(keep)


def _leave_ctrl_c_to_main(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the main one stops the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def default_workers() -> int:
    """The processors left beside the main process; 1 to 8."""
    return min(8, max(1, available_processors() - 1))


def available_processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
