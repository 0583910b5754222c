"""A draw -> a sample. All chance of a training sample comes from one generator seeded by its draw."""

import numpy as np
from torch.utils.data import Dataset

from atr.errors import DataError
from atr.pipeline.audio import decode_clip, to_int16
from atr.pipeline.augment import Augmentation, augment
from atr.pipeline.text import WordMask, captions_of, labels_of
from atr.shards.read import ShardSet
from atr.types import BadSample, Draw, Sample

REPLACEMENTS = 10  # draws in a row that may be bad before the data as a whole is refused

Loaded = tuple[Sample | None, list[BadSample]]


class ClipDataset(Dataset[Loaded]):
    """Samples of a `ShardSet` by `Draw`. What cannot be used comes back with its reason."""

    def __init__(self, shards: ShardSet, seconds: float, sample_rate: int, mask_token: str) -> None:
        self.shards = shards
        self.seconds = seconds  # s
        self.sample_rate = sample_rate  # Hz
        self.mask_token = mask_token

    def __len__(self) -> int:
        return len(self.shards)

    def _sample(self, number: int, rng: np.random.Generator | None) -> Sample:
        """Decodes one sample; `rng` makes the crop a random one.

        Raises:
            DataError: it cannot be used.
        """
        meta = self.shards.metadata(number)
        audio = self.shards.audio(number)
        if not audio:
            raise DataError("has no sound file beside its json")
        waveform, notes = decode_clip(audio, self.seconds, self.sample_rate, rng)
        source, title = str(meta.get("source", "")), str(meta.get("title", ""))
        captions = captions_of(meta)
        key, labels = self.shards.name(number), labels_of(meta)
        return Sample(key, waveform, captions, captions, labels, source, title, notes=notes)


class EvaluationDataset(ClipDataset):
    """The beginning of each clip, with all its captions."""

    def __getitem__(self, draw: Draw) -> Loaded:
        try:
            sample = self._sample(draw.number, rng=None)
            if not sample.captions and not sample.labels:
                raise DataError("has neither a caption (`text`) nor a label (`tag`) in its json")
        except DataError as error:
            return None, [BadSample(self.shards.name(draw.number), str(error))]
        sample.clipped = to_int16(sample.waveform)[1]
        return sample, []


class TrainingDataset(ClipDataset):
    """A random crop, augmented, with one random caption whose words may be hidden.

    A bad sample is replaced by another one, drawn from the same seed, so that batches keep their size.

    Raises:
        DataError: ten replacements in a row are bad, too.
    """

    def __init__(
        self,
        shards: ShardSet,
        seconds: float,
        sample_rate: int,
        mask_token: str,
        seed: int,
        transform: Augmentation | None,
        word_mask: WordMask | None,
    ) -> None:
        super().__init__(shards, seconds, sample_rate, mask_token)
        self.seed = seed
        self.transform = transform
        self.word_mask = word_mask

    def __getitem__(self, draw: Draw) -> Loaded:
        rng = np.random.default_rng([self.seed, draw.epoch, draw.position])
        number = draw.number
        bad: list[BadSample] = []
        for _ in range(REPLACEMENTS):
            try:
                return self._chosen(number, rng), bad
            except DataError as error:
                bad.append(BadSample(self.shards.name(number), str(error)))
                number = int(rng.integers(len(self)))
        raise DataError(f"{REPLACEMENTS} clips in a row cannot be used; the first is {bad[0].key}: {bad[0].reason}")

    def _chosen(self, number: int, rng: np.random.Generator) -> Sample:
        sample = self._sample(number, rng)
        if not sample.captions:
            raise DataError("has no caption: its json has no `text`")
        caption = sample.captions[rng.integers(len(sample.captions))]
        sample.captions = [caption]
        sample.spoken = [self.word_mask(caption, self.mask_token, rng) if self.word_mask else caption]
        if self.transform is not None:
            seed = int(rng.integers(2**32))
            sample.waveform = augment(sample.waveform, self.sample_rate, self.transform, seed)
        sample.clipped = to_int16(sample.waveform)[1]
        return sample
