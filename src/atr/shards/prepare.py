"""Rows of a corpus -> shards, in many processes and through any interruption.

The plan says which clip stands where; a shard is a function of its lines of the plan and the settings. What became of a
shard is written beside the plan when the shard is whole, so a run that was killed goes on with the others.
"""

import contextlib
import functools
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from atr.datasets.corpus import MissingSplit
from atr.datasets.manifest import write_manifest
from atr.errors import DataError, UsageError
from atr.shards.encode import Codec
from atr.shards.forks import available_processors, run_forked
from atr.shards.index import index_path, load_index
from atr.shards.plan import Plan, as_reject, make_plan, read_part
from atr.shards.progress import clip_bar
from atr.shards.write import check_settings, claimed, shard_key, write_shard
from atr.types import BadSample, Clip

NOTE = "settings.json"  # in the work folder: what is being done here
WORK = ".prepare"  # the folder of the plan, and of what became of each shard
SUMMARY, MANIFEST, REJECTED, REMARKS = "summary.json", "manifest.jsonl", "rejected.jsonl", "remarks.jsonl"
_PATH_BEFORE = re.compile(r"^[^:]*/.*?: ")
_OF_ONE_CLIP = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\b[\w-]*\d[\w.:-]*")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How clips are stored.

    Attributes:
        codec: `keep` copies the files as they are; flac and wav store 16 bits, ogg and opus are lossy.
        sample_rate: Hz to convert to; None leaves each file's.
        clips_per_shard: samples in a tar.
        max_seconds: longer clips are cut off there.
    """

    codec: str = "flac"
    sample_rate: int | None = None
    clips_per_shard: int = 512
    max_seconds: float | None = None

    def check(self) -> None:
        """Refuses what makes no sense.

        Raises:
            UsageError: naming the setting.
        """
        try:
            check_settings(cast(Codec, self.codec), self.sample_rate, self.clips_per_shard, None)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if self.max_seconds is not None and not 0 < self.max_seconds < 1e9:
            raise UsageError(f"max_seconds is {self.max_seconds}; it must be above 0 s and below 1e9 s")
        if self.max_seconds is not None and self.codec == "keep":
            raise UsageError("max_seconds cuts clips off, and codec 'keep' cannot; choose flac, ogg, opus or wav")

    def applied(self, clip: Clip) -> Clip:
        """The clip with the stretch that is to be stored."""
        if self.max_seconds is None:
            return clip
        end = (clip.start or 0.0) + self.max_seconds
        return replace(clip, end=end if clip.end is None else min(end, clip.end))


def prepare(
    rows: Iterable[Clip | BadSample],
    folder: Path,
    settings: Settings,
    *,
    exclude: frozenset[str] = frozenset(),
    workers: int | None = None,
    backend: str = "local",
    progress: bool = True,
) -> dict[str, Any]:
    """Writes shards with their indexes, `manifest.jsonl`, `rejected.jsonl`, `sizes.json` and `summary.json`.

    The same rows and settings give the same bytes, with any number of workers and however often it was stopped; called
    again after that, it goes on, and does nothing when all is there.

    Args:
        rows: clips, and what could not become one; taken one at a time.
        folder: made if it is not there.
        settings: how to store them.
        exclude: sources to leave out.
        workers: processes; None for one per processor.
        backend: `local`, or `ray` for the cluster that Ray finds (one on this machine, if there is none).
        progress: shows bars on a terminal (stderr).

    Returns:
        What stands in `summary.json`.

    Raises:
        DataError: no row gives a clip; the folder holds shards of another listing or with other settings; or a clip
            ended its worker.
        UsageError: a setting makes no sense.
    """
    settings.check()
    if backend not in ("local", "ray"):
        raise UsageError(f"backend {backend!r}; allowed are local, ray")
    work = folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_if_empty, folder)
        stack.enter_context(claimed(folder))
        try:
            with clip_bar(None, progress, "rows") as on_row:
                plan = make_plan(rows, work, settings.clips_per_shard, exclude, on_row)
        except BaseException:
            if not (work / NOTE).exists():  # nothing was begun here
                shutil.rmtree(work)
            raise
        identity = asdict(settings) | {"plan": plan.sha256}
        done = _take_up(folder, identity)
        if done is not None:
            shutil.rmtree(work)
            return done
        if plan.clips == 0:
            raise _nothing(f"none of the {plan.rejected} rows gives a clip", work)
        _fill(plan, folder, settings, workers, backend, progress)
        return _finish(plan, folder, identity)


def fill_shard(
    plan: Path, offset: int, count: int, tar: Path, settings: Settings, on_clip: Callable[[], object] = lambda: None
) -> None:
    """Writes one shard of a plan, unless it is there, and what became of it: `.prepare/00000.json`.

    Args:
        plan: the plan's manifest.
        offset: of the shard's first line, bytes.
        count: clips.
        tar: the shard.
        settings: how to store the clips.
        on_clip: is called after each clip.
    """
    if _is_done(tar):
        return
    tar.unlink(missing_ok=True)  # whole, but its outcome was not written any more
    index_path(tar).unlink(missing_ok=True)
    clips = (settings.applied(clip) for clip in read_part(plan, offset, count))
    written = write_shard(clips, tar, cast(Codec, settings.codec), settings.sample_rate, on_clip)
    content = {
        "clips": written.clips,
        "clipped": written.clipped,
        "rejected": [[one.key, one.reason] for one in written.rejected],
        "remarks": [[one.key, one.reason] for one in written.remarks],
    }
    _write_whole(_outcome(tar), json.dumps(content))


def _take_up(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The summary, if all is done already; else notes what is being done here, so that only the same is gone on with.

    Raises:
        DataError: the folder holds something else.
    """
    note, summary = folder / WORK / NOTE, folder / SUMMARY
    for path in (summary, note):
        if not path.is_file():
            continue
        before = _object(path)
        if changed := [name for name, value in identity.items() if before.get(name) != value]:
            what = ", ".join("the listed clips" if name == "plan" else name for name in changed)
            raise DataError(
                f"{folder} holds shards that differ in: {what}; remove the folder, choose another --out, or give the "
                "same again"
            )
        if path == summary:
            if (there := len(list(folder.glob("*.tar")))) != before.get("shards"):
                raise DataError(
                    f"{folder} holds {there} shards, and {summary.name} tells of {before.get('shards')}; "
                    "put them back, or remove the folder and prepare it again"
                )
            return before
    if not note.is_file():
        if any(folder.glob("*.tar")):
            raise DataError(f"{folder} already holds shards from elsewhere; choose another --out")
        _write_whole(note, json.dumps(identity))
    return None


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{path}: is damaged; remove {path.parent}, then prepare it again")
    return content


def _nothing(what: str, work: Path) -> MissingSplit:
    """The error of a split without clips, with the first reasons; nothing is left of it."""
    examples = "".join(f"\n  {one.key}: {one.reason}" for one in _rejects(work / REJECTED, 5))
    shutil.rmtree(work)
    return MissingSplit(f"{what}:{examples}")


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _fill(plan: Plan, folder: Path, settings: Settings, workers: int | None, backend: str, progress: bool) -> None:
    """All shards that are not there yet, in parallel."""
    tars = [folder / f"{number:05d}.tar" for number in range(len(plan.counts))]
    left = [number for number, tar in enumerate(tars) if not _is_done(tar)]
    tasks = [
        functools.partial(fill_shard, plan.path, plan.offsets[number], plan.counts[number], tars[number], settings)
        for number in left
    ]
    clips = sum(plan.counts[number] for number in left)
    with clip_bar(clips, progress) as on_clip:
        if backend == "ray":
            from atr.shards.on_ray import run_on_ray

            run_on_ray(tasks, workers, on_clip, [plan.counts[number] for number in left])
            return
        processes = min(workers or available_processors(), len(tasks))
        if processes > 1:
            run_forked(tasks, processes, on_clip, lambda task, done: _where(plan, tars, left[task], done))
        else:
            for task in tasks:
                task(on_clip)


def _where(plan: Plan, tars: list[Path], number: int, done: int) -> str:
    """A shard and its clip after the first `done`, for messages."""
    clips = list(plan.shard(number))
    clip = clips[min(done, len(clips) - 1)]
    return f"{tars[number]}: clip {clip.id!r} ({clip.audio})"


def _finish(plan: Plan, folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Writes what tells of all shards together; the summary is the last, and says that all is done."""
    work, sizes, clipped = folder / WORK, {}, 0
    rejected, remarks = work / REJECTED, work / REMARKS
    reasons = Counter(kind_of(one.reason) for one in _rejects(rejected))
    with rejected.open("ab") as rejects, remarks.open("ab") as remarked:
        for number in range(len(plan.counts)):
            tar = folder / f"{number:05d}.tar"
            outcome = json.loads(_outcome(tar).read_text())
            if outcome["clips"]:
                sizes[tar.name] = outcome["clips"]
            clipped += outcome["clipped"]
            rejects.writelines(as_reject(BadSample(*one)) for one in outcome["rejected"])
            reasons.update(kind_of(reason) for _, reason in outcome["rejected"])
            remarked.writelines(as_reject(BadSample(*one)) for one in outcome["remarks"])
    if not sizes:
        raise _nothing(f"none of the {plan.clips} clips can be stored", work)
    totals: Counter[str] = Counter()
    write_manifest(_stored(plan, folder, totals), work / MANIFEST)  # where a killed run's temporary file is removed
    (work / MANIFEST).replace(folder / MANIFEST)
    for path in (rejected, remarks):
        if path.stat().st_size:
            path.replace(folder / path.name)
        else:
            (folder / path.name).unlink(missing_ok=True)  # one of the tables alone
    _write_whole(folder / "sizes.json", json.dumps(sizes, indent=0))
    summary = identity | {
        "listed": plan.clips + plan.rejected,
        "clips": sum(sizes.values()),
        "hours": round(totals["microseconds"] / 3.6e9, 4),
        "captions": totals["captions"],
        "words": totals["words"],
        "rejected": dict(sorted(reasons.items(), key=lambda one: (-one[1], one[0]))),
        "clipped_samples": clipped,
        "shards": len(sizes),
    }
    _write_whole(folder / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(work)
    return summary


def _stored(plan: Plan, folder: Path, totals: Counter[str]) -> Iterator[Clip]:
    """The clips that the shards hold, with the duration and rate of what is stored; sums them up."""
    for number in range(len(plan.counts)):
        tar = folder / f"{number:05d}.tar"
        if not tar.is_file():
            continue
        index = load_index(tar)
        rows = {index.key(row): index.rows[row] for row in range(len(index))}
        for clip in plan.shard(number):
            if (row := rows.get(shard_key(clip.id))) is None:
                continue
            if row["sample_rate"]:
                seconds = round(int(row["frames"]) / int(row["sample_rate"]), 6)
                clip = replace(clip, duration=seconds, sample_rate=int(row["sample_rate"]))
            totals["microseconds"] += round(1e6 * (clip.duration or 0))
            totals["captions"] += len(clip.captions)
            totals["words"] += sum(len(caption.split()) for caption in clip.captions)
            yield clip


def _rejects(path: Path, limit: int | None = None) -> Iterator[BadSample]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number == limit:
                return
            row = json.loads(line)
            yield BadSample(row["clip"], row["reason"])


def kind_of(reason: str) -> str:
    """A reason without the names and numbers of its clip, so that reasons can be counted.

    >>> kind_of("no file for video 'r1nicOVtvkQ' below /data/audiocaps")
    'no file for video … below …'
    """
    return _OF_ONE_CLIP.sub("…", _PATH_BEFORE.sub("…: ", reason))


def _is_done(tar: Path) -> bool:
    """Its outcome is written, and the shard is still there, unless no clip could be stored."""
    outcome = _outcome(tar)
    return outcome.is_file() and (tar.is_file() or not json.loads(outcome.read_text())["clips"])


def _outcome(tar: Path) -> Path:
    return tar.parent / WORK / f"{tar.stem}.json"


def _write_whole(path: Path, content: str) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
