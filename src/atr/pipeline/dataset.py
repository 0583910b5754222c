"""A draw -> a sample. All chance of a training sample comes from one generator seeded by its draw."""

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Literal

import numpy as np
from torch.utils.data import Dataset

from atr.errors import DataError
from atr.pipeline.audio import decode_clip, to_int16
from atr.pipeline.augment import Augmentation, augment
from atr.pipeline.pair import PairMix
from atr.pipeline.text import WordMask, captions_of, label_caption, labels_of
from atr.shards.read import ShardSet
from atr.shards.scan import Window
from atr.types import BadSample, Draw, Sample

REPLACEMENTS = 10  # draws in a row that may be bad before the data as a whole is refused

Loaded = tuple[Sample | None, list[BadSample]]


class Listening:
    """Sound file and json -> `Sample`: what training and evaluation share.

    Args:
        seconds: length of a waveform, s.
        sample_rate: Hz.
        mask_token: the tokenizer's.
        stereo: two channels instead of one.

    Attributes:
        features: by a clip's full name, what is used instead of its sound; None: the sound is decoded.
    """

    def __init__(self, seconds: float, sample_rate: int, mask_token: str, stereo: bool = False) -> None:
        self.seconds, self.sample_rate, self.mask_token, self.stereo = seconds, sample_rate, mask_token, stereo
        self.features: Mapping[str, np.ndarray] | None = None

    def open(self, shards: ShardSet, number: int) -> BinaryIO | None:
        """The sound file of a sample; None when there is none, or none is needed."""
        return shards.open_audio(number) if self.features is None else None

    def sample(self, key: str, meta: dict[str, Any], audio: BinaryIO | None, rng: np.random.Generator | None) -> Sample:
        """Decodes one sample, its waveform still float32; `rng` makes the crop a random one.

        Raises:
            DataError: it cannot be used.
        """
        if self.features is not None:
            return self._stored(key, meta, self.features[key])
        if audio is None:
            raise DataError("has no sound file beside its json")
        captions, labels = captions_of(meta), labels_of(meta)
        try:
            waveform, notes = decode_clip(audio, self.seconds, self.sample_rate, rng, self.stereo)
        finally:
            window = getattr(audio, "raw", None)
            if isinstance(window, Window) and window.failed is not None:
                raise window.failed  # not what the decoder makes of a file that seems to end there
        source, title = str(meta.get("source", "")), str(meta.get("title", ""))
        return Sample(key, waveform, captions, captions, labels, source, title, notes=notes)

    @staticmethod
    def _stored(key: str, meta: dict[str, Any], features: np.ndarray) -> Sample:
        captions, source, title = captions_of(meta), str(meta.get("source", "")), str(meta.get("title", ""))
        nothing = np.empty(0, np.float32)
        return Sample(key, nothing, captions, captions, labels_of(meta), source, title, features=features)


class Training(Listening):
    """A crop with one random caption, mixed with another clip's, masked and augmented as configured."""

    def __init__(
        self,
        seconds: float,
        sample_rate: int,
        mask_token: str,
        stereo: bool = False,
        transform: Augmentation | None = None,
        word_mask: WordMask | None = None,
        mix: PairMix | None = None,
        label_template: str | None = None,
        crop: Literal["random", "first"] = "random",
    ) -> None:
        super().__init__(seconds, sample_rate, mask_token, stereo)
        self.transform, self.word_mask, self.mix = transform, word_mask, mix
        self.label_template, self.crop = label_template, crop

    def cropped(self, key: str, meta: dict[str, Any], audio: BinaryIO | None, rng: np.random.Generator) -> Sample:
        """A random crop, or the beginning, with one random caption.

        Raises:
            DataError: it cannot be used.
        """
        sample = self.sample(key, meta, audio, rng if self.crop == "random" else None)
        if not sample.captions and sample.labels and self.label_template is not None:
            sample.captions = [label_caption(sample.labels, self.label_template)]
        if not sample.captions:
            more = ", but labels: data.label_template makes captions of them" if sample.labels else ""
            raise DataError(f"has no caption, which training needs: its json has no `text`{more}")
        sample.captions = [sample.captions[rng.integers(len(sample.captions))]]
        return sample

    def finished(self, sample: Sample, other: Callable[[], Sample], rng: np.random.Generator) -> Sample:
        """Mixes (with `other()`, asked only then), masks, augments and quantises a cropped sample."""
        if self.mix is not None and rng.random() < self.mix.probability:
            sample = self.mix(sample, other(), self.sample_rate, rng)
        caption = sample.captions[0]
        sample.spoken = [self.word_mask(caption, self.mask_token, rng) if self.word_mask else caption]
        if self.transform is not None:
            seed = int(rng.integers(2**32))
            sample.waveform = augment(sample.waveform, self.sample_rate, self.transform, seed)
        return quantised(sample)


def quantised(sample: Sample) -> Sample:
    """The waveform as int16; the samples beyond full scale are counted."""
    sample.waveform, sample.clipped = to_int16(sample.waveform)
    return sample


class EvaluationDataset(Dataset[Loaded]):
    """The beginning of each clip, with all its captions. What cannot be used comes back with its reason."""

    def __init__(self, shards: ShardSet, listening: Listening) -> None:
        self.shards, self.listening = shards, listening

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, draw: Draw) -> Loaded:
        number, key = draw.number, self.shards.name(draw.number)
        try:
            audio = self.listening.open(self.shards, number)
            sample = self.listening.sample(key, self.shards.metadata(number), audio, rng=None)
            if not sample.captions and not sample.labels:
                raise DataError("has neither a caption (`text`) nor a label (`tag`) in its json")
        except DataError as error:
            return None, [BadSample(key, str(error))]
        sample.corpus = self.shards.corpus(number)
        return quantised(sample), []


class TrainingDataset(Dataset[Loaded]):
    """Training samples by their draw.

    A bad sample is replaced by another one of its corpus, drawn from the same seed, so that batches keep their size.

    Raises:
        DataError: ten replacements in a row are bad, too.
    """

    def __init__(self, shards: ShardSet, training: Training, seed: int) -> None:
        self.shards, self.training, self.seed = shards, training, seed

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, draw: Draw) -> Loaded:
        rng = np.random.default_rng([self.seed, draw.epoch, draw.position])
        bad: list[BadSample] = []
        sample = self._usable(draw.number, rng, bad)

        def other() -> Sample:
            return self._usable(draw.partner, rng, bad)

        return self.training.finished(sample, other, rng), bad

    def _usable(self, number: int, rng: np.random.Generator, bad: list[BadSample]) -> Sample:
        """The sample of that number, or of the first one drawn in its place that can be used."""
        first = len(bad)
        for _ in range(REPLACEMENTS):
            key = self.shards.name(number)
            try:
                audio = self.training.open(self.shards, number)
                sample = self.training.cropped(key, self.shards.metadata(number), audio, rng)
            except DataError as error:
                bad.append(BadSample(key, str(error)))
                number = self.shards.another(number, rng)
            else:
                sample.corpus = self.shards.corpus(number)
                return sample
        raise DataError(
            f"{REPLACEMENTS} clips in a row cannot be used; the first is {bad[first].key}: {bad[first].reason}"
        )
