"""Labelled or captioned sounds wherever they lie -> an evaluation set, and its embeddings."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from atr.collection import Item
from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw
from atr.errors import DataError, UsageError
from atr.evaluation.find_clips import Found, holds_shards, in_files, in_shards, is_table, joined, told_apart
from atr.inference import AudioTextModel, some
from atr.models.compute import fast_cpu
from atr.pipeline.ledger import list_bad
from atr.shards.cache import ShardCache
from atr.shards.progress import clip_bar
from atr.shards.read import ShardSet
from atr.shards.remote import is_remote
from atr.shards.transfer import shown
from atr.types import BadSample
from atr.windows import check_windows, join

Place = str | Path | ShardSet
BAD_SHARE = 0.01  # of the clips may be unusable


@dataclass(frozen=True)
class EvaluationSet:
    """Clips to measure a model with, in the order of their ids; row i of each list is clip i.

    Attributes:
        name: what reports call the set.
        items: the sounds; an item's name is the clip's id.
        captions: of each clip; may be empty.
        labels: of each clip, each once; may be empty.
        titles: of each clip; may be empty.
        folds: the name of the place that each clip comes from, e.g. `fold1`.
        places: what the set was read from, as paths and URLs.
        sources: the recording that each clip was cut from, e.g. `freesound:102844`; may be empty.
        bad: what could not be used. left_out: what a quarantine leaves out.
        reading: the rows in the order in which the sounds lie on disk, which is the order to read them in.
    """

    name: str
    items: list[Item]
    captions: list[list[str]]
    labels: list[list[str]]
    titles: list[str]
    folds: list[str]
    sources: list[str]
    places: list[str]
    bad: list[BadSample]
    left_out: list[str]
    reading: list[int]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def ids(self) -> list[str]:
        """The clips' ids, ascending."""
        return [item.name for item in self.items]

    @functools.cached_property
    def manifest_sha256(self) -> str:
        """A hash over ids, captions and labels: the same in shards, in a folder and in a table."""
        digest = hashlib.sha256()
        for name, captions, labels in zip(self.ids, self.captions, self.labels, strict=True):
            digest.update(json.dumps([name, captions, sorted(labels)]).encode() + b"\n")
        return digest.hexdigest()

    def of(self, rows: Sequence[int]) -> "EvaluationSet":
        """These clips only; rows ascending."""
        new = {row: i for i, row in enumerate(rows)}
        return replace(
            self,
            items=[self.items[row] for row in rows],
            captions=[self.captions[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            titles=[self.titles[row] for row in rows],
            folds=[self.folds[row] for row in rows],
            sources=[self.sources[row] for row in rows],
            reading=[new[row] for row in self.reading if row in new],
        )

    def clip_of_text(self) -> tuple[list[str], Tensor]:
        """All M captions, clip after clip, and the row of the clip that each belongs to, int64 `(M,)`.

        A caption that stands on several clips, or twice on one, comes as often: each is a query of its own. Embed
        them with `encode_texts`, which encodes each distinct one once.
        """
        rows = [row for row, captions in enumerate(self.captions) for _ in captions]
        return [text for captions in self.captions for text in captions], torch.tensor(rows, dtype=torch.int64)


@dataclass
class EncodedSet:
    """An evaluation set in a model's space.

    Attributes:
        clips: those that could be encoded; what could not is in `clips.bad`.
        audio: `(N, D)`, unit norm, float32, on the CPU.
        windows: how longer clips were covered.
        remarks: what a user should know about clips, each a line.
    """

    clips: EvaluationSet
    audio: Tensor
    windows: str
    remarks: list[str]


def read_set(
    places: Sequence[Place],
    name: str = "",
    *,
    splits: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    audio_dir: Path | None = None,
    encoding: str = "utf-8",
    cache: ShardCache | None = None,
) -> EvaluationSet:
    """Reads ids, captions and labels, and finds the sounds; none is decoded.

    A place is a shard folder, a tar or a URL (json `text`, `tag`), a `ShardSet`, a folder of sounds (a folder per
    class, or a .txt or .json beside each; `atr.datasets.folder`), or a .csv, .tsv, .jsonl table (`atr.datasets.own`).
    Folds are named after the places, and within folders and tables after their splits.

    Args:
        places: in any order.
        name: for reports; those of the folds when empty.
        splits: of folders and tables, which ones; all when empty.
        columns: of tables, field -> column.
        audio_dir: where the sounds of tables are; beside the table when None.
        encoding: of tables and of texts beside sounds.
        cache: for remote shards.

    Raises:
        DataError: a place is not there or of no such kind, two clips have one id, or there is no clip.
        UsageError: `columns` or `audio_dir` where no place is a table, or a split that is not there.
    """
    if isinstance(places, str | Path | ShardSet):
        raise UsageError(f"places is one place; give a list: [{_shown(places)!r}]")
    files = [one for one in places if not isinstance(one, ShardSet) and not holds_shards(one)]
    if (columns or audio_dir) and not any(map(is_table, files)):
        raise UsageError("columns and a folder of sounds are for tables (.csv, .tsv, .jsonl); no place is one")
    if splits and not files:
        raise UsageError("splits are those of folders of sounds and of tables; of shards, name the folders")
    bad: list[BadSample] = []
    left_out: list[str] = []
    found: dict[str, Found] = {}
    every: list[Found] = []
    for place in places:
        if isinstance(place, ShardSet) or holds_shards(place):
            shards = place if isinstance(place, ShardSet) else ShardSet([place], cache)
            left_out += [one.key for one in shards.quarantined]
            rows = in_shards(shards, "" if isinstance(place, ShardSet) else place, bad)
        else:
            path = Path(place).absolute()
            table = is_table(path)
            audio = AudioFiles((audio_dir if table else None) or path)
            rows = in_files(Raw(path, audio, (columns if table else None) or {}, encoding), splits, bad)
        every += rows
    for row in told_apart(every):
        found[row.clip.id] = joined(found[row.clip.id], row) if row.clip.id in found else row
    if not found:
        reason = f"; {sum(one.clips for one in bad)} cannot be used:\n{list_bad(bad)}" if bad else ""
        raise DataError(f"no clip in {', '.join(map(_shown, places)) or 'an empty list of places'}{reason}")
    return _as_set(list(found.values()), name, [one for place in places for one in _named(place)], bad, left_out)


def encode_set(
    model: AudioTextModel,
    clips: EvaluationSet,
    windows: str = "mean",
    bad_share: float = BAD_SHARE,
    progress: bool = True,
) -> EncodedSet:
    """Encodes each clip once, in the order in which they lie on disk; the rows of the result are in the set's order.

    Args:
        windows: as of `AudioTextModel.encode_audio`.
        bad_share: the largest share of the clips that may be unusable; those of `clips.bad` count.
        progress: shows a bar on a terminal (stderr).

    Raises:
        DataError: more clips are bad, or an embedding is NaN or infinite; the message names them.
        UsageError: there are no such windows.
    """
    check_windows(windows, model.fuses)
    vectors: dict[int, Tensor] = {}
    bad = list(clips.bad)
    remarks: dict[str, list[str]] = {}
    sources = (clips.items[row] for row in clips.reading)
    with fast_cpu(), clip_bar(len(clips), progress) as on_clip:
        for row, heard in zip(clips.reading, model.encode_sources(sources, windows), strict=True):
            on_clip()
            if isinstance(heard, BadSample):
                bad.append(heard)
                continue
            for remark in heard.remarks:
                remarks.setdefault(remark, []).append(heard.name)
            vectors[row] = join(torch.stack(heard.vectors), heard.powers, windows)
    rows = sorted(vectors)
    _check_bad(bad, len(rows), bad_share)
    audio = torch.stack([vectors[row] for row in rows])
    kept = clips.of(rows)
    if broken := [kept.items[row].name for row in (~audio.isfinite().all(dim=1)).nonzero().flatten().tolist()]:
        raise DataError(
            f"the model gives NaN or infinite embeddings for {len(broken)} of {len(rows)} clips ({some(broken)}); "
            "it is broken (training diverged?): no numbers are given"
        )
    lines = [f"{some(sorted(names))}: {remark}" for remark, names in sorted(remarks.items())]
    return EncodedSet(replace(kept, bad=bad), audio, windows, lines)


def set_remarks(encoded: EncodedSet) -> list[str]:
    """What a reader of numbers should know about the clips of a set, and about those that are not among them."""
    lines, clips = list(encoded.remarks), encoded.clips
    if clips.bad:
        count = sum(one.clips for one in clips.bad)
        lines.append(f"{count} of {len(clips) + count} clips could not be used:\n{list_bad(clips.bad)}")
    if clips.left_out:
        lines.append(f"{len(clips.left_out)} clips are left out by a quarantine, the first {clips.left_out[0]}")
    return lines


def _check_bad(bad: Sequence[BadSample], usable: int, share: float) -> None:
    count = sum(one.clips for one in bad)
    clips = usable + count
    if count > share * clips or not usable:
        raise DataError(
            f"{count} of {clips} clips cannot be used, more than {share:.2%}:\n{list_bad(bad)}\n"
            "Remove or mend them, or allow more bad samples"
        )


def _as_set(
    found: Sequence[Found], name: str, places: list[str], bad: list[BadSample], left_out: list[str]
) -> EvaluationSet:
    order = sorted(range(len(found)), key=lambda row: found[row].clip.id)
    ordered = [found[row] for row in order]
    folds = fold_names([one.place for one in found])
    place = {row: new for new, row in enumerate(order)}
    return EvaluationSet(
        name=name or "+".join(dict.fromkeys(folds[one.place] for one in found)),
        items=[Item(one.clip.id, one.open, one.size) for one in ordered],
        captions=[one.clip.captions for one in ordered],
        labels=[list(dict.fromkeys(one.clip.labels)) for one in ordered],
        titles=[one.clip.title for one in ordered],
        folds=[folds[one.place] for one in ordered],
        sources=[one.clip.source for one in ordered],
        places=places,
        bad=bad,
        left_out=left_out,
        reading=[place[row] for row in range(len(found))],
    )


def fold_names(places: Sequence[str]) -> dict[str, str]:
    """The last part of each place's path; more parts where that is not enough to tell them apart.

    >>> fold_names(["data/esc10/fold1", "data/esc10/fold2"])
    {'data/esc10/fold1': 'fold1', 'data/esc10/fold2': 'fold2'}
    >>> fold_names(["data/audiocaps/test", "data/clotho/test"])
    {'data/audiocaps/test': 'audiocaps/test', 'data/clotho/test': 'clotho/test'}
    """
    parts = {place: [part for part in place.split("/") if part] or [place] for place in places}
    names: dict[str, str] = {}
    for count in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {place: "/".join(one[-count:]) for place, one in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _named(place: Place) -> list[str]:
    """A place as something that can be opened again."""
    if isinstance(place, ShardSet):
        return list(dict.fromkeys(index.place for index in place.indexes))
    return [str(place) if is_remote(str(place)) else str(Path(place).absolute())]


def _shown(place: Place) -> str:
    return "a set of shards" if isinstance(place, ShardSet) else shown(str(place))
