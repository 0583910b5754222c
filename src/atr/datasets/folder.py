"""Any folder of sounds, with a text or a json of the same name beside each, or a folder per class."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from atr.datasets.audio_files import walk
from atr.datasets.corpus import Card, MissingSplit, Raw
from atr.datasets.manifest import from_metadata
from atr.datasets.own import ALL
from atr.errors import DataError
from atr.shards.scan import AUDIO_SUFFIXES
from atr.types import BadSample, Clip

CARD = Card(
    name="folder",
    homepage="a folder of your own",
    licence="yours; `licence` in a json tells that of each clip",
    splits=(ALL,),
    captions="as many as its .txt has lines, or its .json gives",
    citation="",
    faults=(
        "a sound without a text is a clip without captions",
        "only where no sound at all has a .txt or .json is the name of its folder its label",
        "folders train, validation, val, test, eval, fold1 … are splits; what lies beside them is the split `all`",
    ),
)
_SPLIT = re.compile(r"train|validation|val|test|eval|fold\d+")


def splits(raw: Raw) -> tuple[str, ...]:
    """The folders that are splits, and `all` for the sounds that are in none of them.

    Raises:
        DataError: there is no such folder.
    """
    if not raw.root.is_dir():
        raise DataError(f"{raw.root} is no folder; give the one that the sounds are in")
    found = sorted(one.name for one in raw.root.iterdir() if one.is_dir() and _SPLIT.fullmatch(one.name))
    return (*found, ALL) if any(sounds_below(raw.root, set(found))) or not found else tuple(found)


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """The sounds of a split, by path; the id is the path below the root without suffix.

    Raises:
        MissingSplit: there are none.
    """
    named = {one for one in splits(raw) if one != ALL}
    classes = not any(_texts(path) for path in sounds_below(raw.root, set()))
    before: Path | None = None
    for path in sounds_below(raw.root, named) if split == ALL else sounds_below(raw.root / split, set()):
        below = path.relative_to(raw.root)
        if before is not None and path.with_suffix("") == before.with_suffix(""):
            yield BadSample(str(below), f"has the same name as {before.name}; keep one of them")
            continue
        before = path
        label = [below.parts[-2]] if classes and len(below.parts) > (1 if split == ALL else 2) else []
        clip = Clip(id=below.with_suffix("").as_posix(), audio=str(path), labels=label, split=split)
        yield _described(clip, path, raw.encoding)
    if before is None:
        raise MissingSplit(f"{raw.root} holds no sound files for {split}; suffixes are {', '.join(AUDIO_SUFFIXES)}")


def sounds_below(root: Path, skipped: set[str]) -> Iterator[Path]:
    """The sound files below a folder, sorted, without hidden ones and without the first-level folders `skipped`."""
    for parent, folders, files in walk(root):
        top = Path(parent) == root
        folders[:] = [one for one in folders if not one.startswith(".") and not (top and one in skipped)]
        for name in files:
            if name.rpartition(".")[2].lower() in AUDIO_SUFFIXES and not name.startswith("."):
                yield Path(parent) / name


def _texts(sound: Path) -> list[Path]:
    return [text for text in (sound.with_suffix(".json"), sound.with_suffix(".txt")) if text.is_file()]


def _described(clip: Clip, sound: Path, encoding: str) -> Clip | BadSample:
    """The clip with what the files beside its sound say."""
    for text in _texts(sound):
        try:
            content = text.read_text(encoding="utf-8-sig" if encoding == "utf-8" else encoding)
            if text.suffix == ".json":
                clip = _with_json(clip, json.loads(content), str(text))
            else:
                lines = [line.strip() for line in content.splitlines() if line.strip()]
                clip = replace(clip, captions=[*clip.captions, *(one for one in lines if one not in clip.captions)])
        except UnicodeError as error:
            return BadSample(str(text), f"is not {encoding} ({error}); give it, e.g. --encoding cp949 or latin-1")
        except (ValueError, RecursionError) as error:
            return BadSample(str(text), f"is no JSON ({error})")
        except LookupError:
            raise DataError(f"no encoding is called {encoding!r}; try utf-8, cp949 or latin-1") from None
        except OSError as error:
            return BadSample(str(text), f"cannot be read ({error.strerror or error})")
        except DataError as error:
            return BadSample(str(text), str(error).removeprefix(f"{text}: "))
    return clip


def _with_json(clip: Clip, meta: Any, where: str) -> Clip:
    """LAION's `text` and `tag`, or the fields of a clip.

    Raises:
        DataError: it is neither.
    """
    if not isinstance(meta, dict):
        raise DataError(f"{where}: is a {type(meta).__name__}, not an object")
    meta = {"text": meta.get("captions"), "tag": meta.get("labels")} | meta
    return replace(from_metadata(meta, where), id=clip.id, audio=clip.audio, split=clip.split)
