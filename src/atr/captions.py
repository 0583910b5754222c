"""Sounds of any length -> captions, one for the whole or one for each window."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from atr.errors import UsageError
from atr.evaluation.encode import encode_texts
from atr.inference import CAPTIONED, AudioTextModel, Heard, Source
from atr.models.captioner import Captioner
from atr.models.clap import Clap
from atr.models.decode import DEFAULT, Decoding, generate
from atr.types import BadSample
from atr.windows import join


class Caption(NamedTuple):
    """What is heard in a stretch of a sound; `start` and `end` in s."""

    start: float
    end: float
    text: str


@dataclass
class Captioned:
    """What a captioner writes about a sound.

    Attributes:
        name: the source's.
        captions: one of the whole, or those of its windows in order.
        remarks: what a user should know about the sound.
    """

    name: str
    captions: list[Caption]
    remarks: list[str] = field(default_factory=list)


@dataclass
class _Part:
    """What a caption is written of: a whole sound, or a window of it."""

    features: Tensor
    key: int
    start: float
    end: float


def caption_sources(
    model: AudioTextModel,
    sources: Iterable[Source],
    decoding: Decoding = DEFAULT,
    times: bool = False,
    batch: int = CAPTIONED,
) -> Iterator[Captioned | BadSample]:
    """Captions sounds; gives each one, in order, or why it is none.

    A sound that is longer than the model's window is covered by windows (`atr.windows`). Its caption is that of the
    mean of their embeddings. A captioner that takes frames has no such mean: it writes a caption for each window, and
    of these the one that is nearest to the mean is that of the whole.

    With several `candidates` the one that is nearest to what is heard is taken (`nearest`). The chance of `nucleus`
    depends on the seed and on the sound itself, so a sound has the same caption whatever stands beside it.

    Args:
        times: a caption for each window instead; neighbours with the same caption are joined. The last window ends
            where the sound ends, and so overlaps the one before it.
        batch: captions decoded together.

    Raises:
        UsageError: the checkpoint holds no captioner, or a setting has no meaning.
    """
    if batch < 1:
        raise UsageError(f"batch is {batch}; allowed: 1 or more")
    captioner = captioner_of(model)
    waiting: list[tuple[Heard, list[_Part]] | BadSample] = []
    parts = 0
    for heard in model.encode_sources(sources, "mean", captioner.features):
        if isinstance(heard, BadSample):
            waiting.append(heard)
            continue
        own = _parts(heard, times or captioner.temporal)
        waiting.append((heard, own))
        parts += len(own)
        if parts >= batch:
            yield from _captioned(captioner, waiting, decoding, times, batch)
            waiting, parts = [], 0
    yield from _captioned(captioner, waiting, decoding, times, batch)


def captioner_of(model: AudioTextModel) -> Captioner:
    """The captioner of a model.

    Raises:
        UsageError: it has none.
    """
    if model.captioner is None:
        raise UsageError(
            "this is a contrastive checkpoint, which compares sounds with words but writes none; captions need a "
            "captioning checkpoint, as `python train.py experiment=caption_demo init=THIS_CHECKPOINT` trains it"
        )
    return model.captioner


def _parts(heard: Heard, each: bool) -> list[_Part]:
    """What captions are written of.

    The mean square of a window's int16 samples is a sum of whole numbers that float64 holds exactly; so the key, of
    which the chance is made, is one of the sound alone.
    """
    if not each:
        whole = join(torch.stack(heard.vectors), heard.powers, "mean")
        return [_Part(whole, _key(heard.powers), 0.0, heard.duration)]
    windows = zip(heard.vectors, heard.powers, heard.stretches, strict=True)
    return [_Part(vector, _key([power]), *stretch) for vector, power, stretch in windows]


def _key(powers: Sequence[float]) -> int:
    return zlib.crc32(repr(powers).encode())


def _captioned(
    captioner: Captioner,
    waiting: Sequence[tuple[Heard, list[_Part]] | BadSample],
    decoding: Decoding,
    times: bool,
    batch: int,
) -> Iterator[Captioned | BadSample]:
    """Captions of what waits, decoded `batch` at a time across the borders of sounds."""
    parts = [part for one in waiting if not isinstance(one, BadSample) for part in one[1]]
    texts: list[str] = []
    for first in range(0, len(parts), batch):
        texts += _written(captioner, parts[first : first + batch], decoding)
    at = 0
    for one in waiting:
        if isinstance(one, BadSample):
            yield one
            continue
        heard, own = one
        said = [Caption(part.start, part.end, text) for part, text in zip(own, texts[at : at + len(own)], strict=True)]
        at += len(own)
        if times:
            said = _joined(said)
        elif len(said) > 1:
            said = [Caption(0.0, heard.duration, _of_whole(captioner, heard, said))]
        yield Captioned(heard.name, said, heard.remarks)


def _written(captioner: Captioner, parts: Sequence[_Part], decoding: Decoding) -> list[str]:
    """A caption for each part."""
    device = next(captioner.parameters()).device
    features = torch.stack([part.features for part in parts]).to(device)
    candidates = generate(captioner, features, decoding, [part.key for part in parts])
    if decoding.candidates == 1:
        return [one for (one,) in candidates]
    return nearest(captioner.clap, candidates, embeddings_of(captioner, features))


def _of_whole(captioner: Captioner, heard: Heard, said: Sequence[Caption]) -> str:
    """Of the captions of a sound's windows the one that is nearest to the mean of their embeddings."""
    device = next(captioner.parameters()).device
    windows = embeddings_of(captioner, torch.stack(heard.vectors).to(device)).cpu()
    return nearest(captioner.clap, [[one.text for one in said]], join(windows, heard.powers, "mean")[None])[0]


def _joined(captions: Sequence[Caption]) -> list[Caption]:
    """Neighbours with the same caption as one."""
    joined: list[Caption] = []
    for one in captions:
        if joined and joined[-1].text == one.text:
            joined[-1] = joined[-1]._replace(end=one.end)
        else:
            joined.append(one)
    return joined


@torch.inference_mode()
def embeddings_of(captioner: Captioner, features: Tensor) -> Tensor:
    """What `Captioner.features` gives -> the contrastive model's embeddings of the same clips, `(B, D)`, unit norm."""
    if not captioner.temporal:
        return features
    return F.normalize(captioner.clap.audio_projection(features.mean(dim=1)).float(), dim=1)


@torch.inference_mode()
def nearest(clap: Clap, candidates: Sequence[Sequence[str]], audio: Tensor) -> list[str]:
    """The candidate of each clip whose embedding has the largest cosine with the clip's; of equal ones the first.

    As CLAP-Refine of SLAM-AAC (arXiv 2410.09503), whose candidates are the best of several searches.

    Args:
        audio: embeddings of the clips, `(B, D)`, unit norm.
    """
    texts = encode_texts(clap, [text for one in candidates for text in one], audio.device)
    split = texts.split([len(one) for one in candidates])
    return [one[int((text @ clip).argmax())] for one, text, clip in zip(candidates, split, audio.cpu(), strict=True)]
