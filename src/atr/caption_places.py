"""Folders, files and shards -> a csv of captions. Stopped or killed, the same command goes on."""

import csv
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atr.captions import Caption, Captioned, caption_sources, captioner_of
from atr.collection import Item, digest, find_sounds, whole_file
from atr.embed import check_same, claimed, groups, named
from atr.errors import DataError, UsageError
from atr.frozen import content_hash
from atr.inference import CAPTIONED, AudioTextModel, load
from atr.models.compute import fast_cpu
from atr.models.decode import DEFAULT, Decoding
from atr.shards.progress import clip_bar
from atr.types import BadSample

FORMAT = 1


@dataclass
class CaptionedPlaces:
    """Captions of what stands in some places.

    Attributes:
        sounds: with their captions, in the order of the places.
        bad: what could not be captioned.
        left_out: by a quarantine.
    """

    sounds: list[Captioned] = field(default_factory=list)
    bad: list[BadSample] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def remarks(self) -> dict[str, list[str]]:
        """What a user should know, with the sounds that it is about."""
        found: dict[str, list[str]] = {"is left out by a quarantine": self.left_out} if self.left_out else {}
        for sound in self.sounds:
            for remark in sound.remarks:
                found.setdefault(remark, []).append(sound.name)
        return found


def caption_places(
    checkpoint: str | Path,
    places: Sequence[str | Path],
    out: Path | None = None,
    decoding: Decoding = DEFAULT,
    times: bool = False,
    batch: int = CAPTIONED,
    progress: bool = True,
) -> CaptionedPlaces:
    """Captions sounds, into a csv file if one is named; what is done so far stands in `OUT.part` until all is.

    Args:
        checkpoint: of a captioning run.
        places: folders of sounds, sound files, shard folders, tars.
        out: columns `id, caption`, or with `times` `id, start, end, caption`; whole or not there at all.
        decoding, times, batch: as of `caption_sources`. With another `batch` a file goes on, too.
        progress: shows a bar on a terminal (stderr).

    Raises:
        DataError: a place is not there, no sound can be captioned, or the file cannot be written.
        UsageError: the checkpoint holds no captioner; `out` is there already; its part was made with another model,
            other settings or other sounds.
    """
    part = None if out is None else _part_of(out)
    items, lost, left_out = find_sounds(places)
    model = load(checkpoint)
    about = {} if part is None else _about(model, items, decoding, times)
    write = functools.partial(caption_sources, model, decoding=decoding, times=times, batch=batch)
    done = CaptionedPlaces(left_out=left_out)
    with nullcontext() if part is None else claimed(part, about):
        with fast_cpu(), clip_bar(len(items), progress) as on_clip:
            for number, group in enumerate(groups(items)):
                for one in _group(write, group, part and part / f"{number:06d}.json", about, on_clip):
                    if isinstance(one, BadSample):
                        done.bad.append(one)
                    else:
                        done.sounds.append(one)
        done.bad += lost
        if not done.sounds:
            raise DataError(f"none of {len(items)} sounds can be captioned; the first is {named(done.bad[0])}")
        if out is not None and part is not None:
            write_captions(out, done.sounds, times)
            shutil.rmtree(part)
    return done


def _part_of(out: Path) -> Path:
    """Where what is done so far stands.

    Raises:
        UsageError: `out` cannot be written, or is there already and not of a run that was killed at its very end.
    """
    part = out.with_name(f"{out.name}.part")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: its folder does not exist; make it first")
    if out.exists() and not part.exists():
        raise UsageError(f"--out {out}: is there already; remove it or choose another file")
    return part


def _about(model: AudioTextModel, items: Sequence[Item], decoding: Decoding, times: bool) -> dict[str, Any]:
    """What captions depend on: they go on only with the same."""
    captioner = captioner_of(model)
    weights = content_hash(captioner.state_dict()) + model.fingerprint()
    return {"format": FORMAT, "weights": weights, **asdict(decoding), "times": times, "sounds": digest(items)}


def _group(
    write: Callable[[Sequence[Item]], Iterator[Captioned | BadSample]],
    group: Sequence[Item],
    path: Path | None,
    about: dict[str, Any],
    on_clip: Callable[[], None],
) -> list[Captioned | BadSample]:
    """A group of sounds; with a path it is stored there, or read where it is there already."""
    if path is not None and path.is_file():
        for _ in group:
            on_clip()
        return _read(path, about)
    made: list[Captioned | BadSample] = []
    for one in write(group):
        made.append(one)
        on_clip()
    if path is not None:
        rows = [{"bad": asdict(one)} if isinstance(one, BadSample) else {"sound": asdict(one)} for one in made]
        with whole_file(path) as new:
            new.write_text(json.dumps({"about": about, "rows": rows}), encoding="utf-8")
    return made


def _read(path: Path, about: dict[str, Any]) -> list[Captioned | BadSample]:
    """What `_group` wrote.

    Raises:
        DataError: it is damaged.
        UsageError: it was made in another way.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        check_same(content["about"], about, path.parent)
        return list(map(_of_row, content["rows"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); remove it, and the same command makes it again") from error


def _of_row(row: dict[str, Any]) -> Captioned | BadSample:
    if "bad" in row:
        return BadSample(**row["bad"])
    sound = row["sound"]
    return Captioned(sound["name"], [Caption(*one) for one in sound["captions"]], sound["remarks"])


def write_captions(path: Path, sounds: Sequence[Captioned], times: bool) -> None:
    """Writes `id, caption`, or `id, start, end, caption` (s), in UTF-8, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "start", "end", "caption"] if times else ["id", "caption"])
        rows.writerows(_cells(sounds, times))


def _cells(sounds: Sequence[Captioned], times: bool) -> Iterator[list[str]]:
    for sound in sounds:
        for start, end, text in sound.captions:
            yield [sound.name, f"{start:.3f}", f"{end:.3f}", text] if times else [sound.name, text]
