"""BinauralMusic: videos of music recorded for two ears, solo and in twos and threes, as lists of YouTube ids."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atr.datasets.corpus import Card, Raw, need_file
from atr.datasets.tables import youtube_id
from atr.errors import DataError
from atr.types import BadSample, Clip

CARD = Card(
    name="BinauralMusic",
    homepage="https://github.com/slliugit/BinauralMusic",
    licence="none stated; the sound belongs to the videos' authors",
    splits=("solo", "duet_trio"),
    captions="none; the labels are the instruments",
    citation="BinauralMusic: A Diverse Dataset for Improving Cross-Modal Binaural Audio Generation (title from the "
    "repository; authors and year not verified)",
    faults=(
        "the two channels are its point: train with data.stereo=true, and keep them when shards are made",
        "148 ids: wJVRW8UM, PLLnCCWYC and bOYpwFkn7o are too short, BPXGYYQRA1w, XR81mJgDkfk and trIYz35DZjI stand "
        "twice in a list; all six are named and skipped, which leaves 142 clips",
        "RDOkvFgDQm8 is in both lists (violin; piano violin); ZEwLzg9NIaE has a blank before it, which is dropped",
        "a clip is a whole video; the 5462 clips of the publisher are cut from them in a way that is not published",
    ),
)
INSTRUMENTS = (
    "Chinese lute", "Chinese zither", "cello", "erhu", "flute", "guitar", "piano", "trumpet", "violin",
)  # fmt: skip


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`BinauralMusic_solo.json` or `BinauralMusic_duet_trio.json`: instruments -> ids."""
    path = need_file(raw.root / f"BinauralMusic_{split}.json", "BinauralMusic's list of this split")
    seen: dict[str, str] = {}
    for key, ids in _videos(path).items():
        for number, text in enumerate(ids):
            where = f"{path}: videos[{key!r}][{number}]"
            video = youtube_id(text) if isinstance(text, str) else None
            if video is None:
                yield BadSample(where, f"{text!r} is no YouTube id of 11 characters")
            elif video in seen:
                yield BadSample(where, f"{video} stands in {seen[video]} already")
            else:
                if text != video:
                    yield BadSample(where, f"{text!r} has blanks around the id {video}, which is taken", clips=0)
                seen[video] = f"videos[{key!r}][{number}]"
                clip = Clip(
                    id=video, audio="", labels=_labels(key), split=split, source=f"youtube:{video}", dataset=CARD.name,
                    licence=CARD.licence,
                )  # fmt: skip
                yield raw.audio.video(clip, video, None, None)


def _videos(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error})") from error
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, dict) or not all(isinstance(ids, list) for ids in videos.values()):
        raise DataError(f"{path}: has no `videos` with lists of ids by instrument")
    return videos


def _labels(key: str) -> list[str]:
    """The instruments of a key such as `piano cello`; where it names none (`Trio`), the key itself.

    >>> _labels("Chinese zither"), _labels("cello cello"), _labels("Trio")
    (['Chinese zither'], ['cello'], ['Trio'])
    """
    return [name for name in INSTRUMENTS if name in key] or [key]
