"""WavCaps: 403 000 sounds of four origins, with captions that a language model made of their descriptions."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atr.datasets.corpus import Card, Download, MissingSplit, Raw
from atr.datasets.json_records import read_records
from atr.datasets.tables import Seen, youtube_id_after_y
from atr.types import BadSample, Clip

_TABLES = "https://huggingface.co/datasets/cvssp/WavCaps/resolve/main/json_files"
_BLACK_LISTS = "https://raw.githubusercontent.com/XinhaoMei/WavCaps/master/data/json_files/blacklist"
# split -> folder, tables in the order of preference
_PARTS = {
    "freesound": ("FreeSound", ("fsd_final.json", "fsd_final_2s.json")),
    "bbc": ("BBC_Sound_Effects", ("bbc_final.json",)),
    "soundbible": ("SoundBible", ("sb_final.json",)),
    "audioset": ("AudioSet_SL", ("as_final.json",)),
}
CARD = Card(
    name="WavCaps",
    homepage="https://huggingface.co/datasets/cvssp/WavCaps",
    licence="academic use only; each sound by the terms of Freesound, BBC Sound Effects, SoundBible or its video",
    splits=("freesound", "bbc", "soundbible", "audioset"),
    captions="1",
    citation="Mei et al.: WavCaps: A ChatGPT-Assisted Weakly-Labelled Audio Captioning Dataset for Audio-Language "
    "Multimodal Research. IEEE/ACM TASLP 32, 2024, arXiv:2303.17395",
    faults=(
        "it overlaps the test sets of AudioCaps, Clotho, ESC-50, UrbanSound8K and VGGSound: the publisher's black "
        "lists name the recordings",
        "the clips of AudioSet come without times; those of a video that is whole on disk cannot be cut",
        "the sounds come as zips in parts, which have to be joined first (zip -FF)",
    ),
    unverified="freesound, bbc and audioset (soundbible was read): after reference and the reader in the repository "
    "Labbeti/aac-datasets",
    downloads=(
        *(
            Download(url=f"{_TABLES}/{folder}/{names[0]}", path=f"json_files/{folder}/{names[0]}")
            for folder, names in _PARTS.values()
        ),
        *(
            Download(url=f"{_BLACK_LISTS}/blacklist_exclude_{name}.json", path=f"blacklist_exclude_{name}.json")
            for name in ("all_ac", "test_ac", "ub8k_esc50_vggsound")
        ),
    ),
)
CAPTIONS = ("caption", *(f"caption_{number}" for number in range(1, 6)))


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`fsd_final.json`, `bbc_final.json`, `sb_final.json`, `as_final.json`, in the publisher's folders or in the root.

    The ids are `freesound_ID`, `bbc_ID`, `soundbible_ID`, and `Y` with the video's for AudioSet.
    """
    seen = Seen()
    for record in read_records(_table(raw.root, split)):
        if isinstance(record, BadSample):
            yield record
            continue
        where, fields = record
        clip = _clip(fields, where, split)
        if isinstance(clip, BadSample):
            yield clip
        elif seen(clip.id):
            yield BadSample(where, f"{clip.id!r} came before")
        elif split == "audioset":
            yield raw.audio.video(clip, clip.source.removeprefix("youtube:"), None, None)
        else:
            yield raw.audio.named(clip, clip.source.partition(":")[2], _folders(split), _others(split))


def _table(root: Path, split: str) -> Path:
    folder, names = _PARTS[split]
    for name in names:
        for place in (f"json_files/{folder}/{name}", f"data/json_files/{folder}/{name}", f"{folder}/{name}", name):
            if (root / place).is_file():
                return root / place
    raise MissingSplit(
        f"{root}: holds neither json_files/{folder}/{names[0]} nor {names[0]}, WavCaps' table of {split}"
    )


def _clip(fields: dict[str, Any], where: str, split: str) -> Clip | BadSample:
    name = fields.get("id")
    name = str(name).strip() if isinstance(name, str | int) and not isinstance(name, bool) else ""
    if split == "audioset":
        name = youtube_id_after_y(name.removesuffix(".wav")) or ""
    if not name:
        return BadSample(where, f"its id is {fields.get('id')!r}, which is none of {split}")
    captions = [fields[one].strip() for one in CAPTIONS if isinstance(fields.get(one), str) and fields[one].strip()]
    if not captions:
        return BadSample(where, f"{name!r} has no caption")
    titles = [fields[one].strip() for one in ("title", "description") if isinstance(fields.get(one), str)]
    return Clip(
        id=f"Y{name}" if split == "audioset" else f"{split}_{name}", audio="", captions=captions, split=split,
        title=next(filter(None, titles), ""), duration=_duration(fields.get("duration")),
        source=f"youtube:{name}" if split == "audioset" else f"{split}:{name}", dataset=CARD.name,
        licence=CARD.licence,
    )  # fmt: skip


def _duration(value: Any) -> float | None:
    """Seconds, where the table has a number."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _folders(split: str) -> list[str]:
    folder = _PARTS[split][0]
    return [folder, f"{folder}_flac"]  # the second is what the publisher's zips unpack to


def _others(split: str) -> list[str]:
    """Ids are numbers, so the folders of the other parts hold other sounds of the same name."""
    return [folder for other in _PARTS if other != split for folder in _folders(other)]
