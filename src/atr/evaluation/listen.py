"""The clips of a report that can be listened to: which ones, what the model makes of them, and their sound."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from atr.collection import Item
from atr.datasets.places import on_this_machine
from atr.errors import AtrError, DataError
from atr.evaluation.saved import SavedSet
from atr.evaluation.sets import read_set
from atr.pipeline.audio import NO_SAMPLES, from_samples, mixed
from atr.pipeline.decode import Sound, open_sound

SECONDS = 10.0  # of a clip that are played
NEAREST = 4  # captions shown for a clip
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000)  # Hz; more would double the page for little
COMPRESSION = 0.6  # of libsndfile's MP3: 0 is the best sound, 1 the smallest file


@dataclass(frozen=True)
class Near:
    """The captions of a set that are nearest to a clip.

    Attributes:
        nearest: cosine, caption, and whether it is the clip's own.
        own_place: of the best own caption among the distinct captions, 1 is the first; None where it has none.
    """

    nearest: list[tuple[float, str, bool]]
    own_place: int | None


def spread(ids: Sequence[str], most: int) -> list[str]:
    """Ids at equal distances from the first to the last."""
    return [ids[row] for row in np.unique(np.linspace(0, len(ids) - 1, min(most, len(ids))).round().astype(int))]


def near(saved: SavedSet, row: int) -> Near:
    """The captions nearest to a clip, among the distinct ones of the set."""
    own = {saved.captions[column] for column in np.flatnonzero(saved.clip_of_text == row).tolist()}
    first = {caption: column for column, caption in reversed(list(enumerate(saved.captions)))}
    texts, columns = list(first), list(first.values())
    cosine = saved.text[columns] @ saved.audio[row]
    order = np.argsort(-cosine, kind="stable").tolist()
    nearest = [(float(cosine[i]), texts[i], texts[i] in own) for i in order[:NEAREST]]
    return Near(nearest, next((place for place, i in enumerate(order, 1) if texts[i] in own), None))


def sounds(saved: Sequence[SavedSet], ids: Sequence[str], on_clip: Callable[[], None]) -> dict[str, str | DataError]:
    """The first seconds of clips as data URIs, or why there is no sound.

    Args:
        saved: one set as several runs have it; the first whose places still hold a clip gives it.
        on_clip: called after each.
    """
    items: dict[str, Item] = {}
    reason = "the run kept no embeddings, which say where its sound lies"
    for places in dict.fromkeys(tuple(one.places) for one in saved):
        try:
            found = read_set([on_this_machine(place) for place in places]).items  # no URL or command of a file is run
        except AtrError as error:
            reason = str(error)
        else:
            items = {item.name: item for item in found} | items
            reason = f"the sound is no longer in {', '.join(places)}"
    heard: dict[str, str | DataError] = {}
    for name in ids:
        try:
            heard[name] = play(items[name]) if name in items else DataError(reason)
        except DataError as error:
            heard[name] = DataError(f"{name}: {error}")
        on_clip()
    return heard


def play(item: Item) -> str:
    """The first `SECONDS` of a sound, mono, as a data URI that browsers play.

    Raises:
        DataError: it cannot be read or holds no samples.
    """
    source = item.open()
    if source is None:
        raise DataError("has no sound file beside its json")
    if isinstance(source, tuple):
        return _encoded(from_samples(*source))
    with open_sound(str(source) if isinstance(source, Path) else source) as sound:
        return _encoded(sound)


def _encoded(sound: Sound) -> str:
    samples = sound.read(0, min(sound.frames, round(SECONDS * sound.rate)))
    if not len(samples):
        raise DataError(NO_SAMPLES)
    waveform = np.nan_to_num(np.ascontiguousarray(mixed(samples), np.float32), posinf=1.0, neginf=-1.0).clip(-1, 1)
    rate = max((one for one in MP3_RATES if one <= sound.rate), default=MP3_RATES[0])
    stream = io.BytesIO()
    resampled = waveform if rate == sound.rate else soxr.resample(waveform, sound.rate, rate).clip(-1, 1)
    soundfile.write(stream, resampled, rate, format="MP3", compression_level=COMPRESSION, bitrate_mode="VARIABLE")
    return f"data:audio/mpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
