"""Looks for leaks before training: the training set of a run against its validation and test sets."""

from collections.abc import Sequence
from pathlib import Path

from atr.datasets.overlap import Found, find_leaks, summary
from atr.datasets.places import Place
from atr.errors import DataError, UsageError
from atr.pipeline.datamodule import AudioTextData
from atr.shards.remote import is_remote

ACTIONS = ("refuse", "drop", "warn", "ignore")
FIRST = 3  # leaks printed


def guard(
    data: AudioTextData, action: str, by: Sequence[str] | str | None, exclude_lists: Sequence[str] | str | None
) -> list[str]:
    """Does with leaks what `action` says, and returns what there is to say about it.

    `drop` takes the clips out of `data.sets["train"]`. Reads the json of each clip once.

    Raises:
        UsageError: an unknown action or kind of match.
        DataError: there are leaks and `action` is `refuse`, or `drop` would leave nothing.
    """
    if action not in ACTIONS:
        raise UsageError(f"leaks.action is {action!r}; allowed: {', '.join(ACTIONS)}")
    by, exclude_lists = _listed(by), _listed(exclude_lists)
    evaluation: list[Place] = [data.sets[name] for name in ("validation", "test") if name in data.sets]
    if action == "ignore" or not (evaluation or exclude_lists):
        return []
    if data.streamed or any(is_remote(index.place) for index in data.sets["train"].indexes):
        how = "streamed" if data.streamed else "remote"  # all of it would have to be fetched first
        return [
            f"leaks: data.train is {how} and was not compared with the evaluation sets; give its manifest to atr leaks"
        ]
    found = find_leaks([data.sets["train"]], evaluation, by, [Path(path) for path in exclude_lists])
    lines = _bad_lines(found)
    if not found.clips:
        return lines
    lines = [f"leaks: {summary(found)}{_first(found)}", *lines]
    if action == "refuse":
        raise DataError(f"{lines[0]}\n  take them out of data.train, or set leaks.action=drop (or warn, ignore)")
    if action == "warn":
        return [f"{lines[0]}\n  leaks.action=drop leaves them out of training", *lines[1:]]
    return [*lines, _drop(data, found)]


def _listed(value: Sequence[str] | str | None) -> list[str]:
    """One is as good as a list of one, and null as good as none."""
    return [value] if isinstance(value, str) else list(value or [])


def _drop(data: AudioTextData, found: Found) -> str:
    train = data.sets["train"]
    leaked = {leak.number for leak in found.leaks}.union(*found.same.values())
    keep = [number for number in range(len(train)) if number not in leaked]
    if not keep:
        raise DataError("leaks.action=drop leaves no clip in data.train: all are in the evaluation sets")
    train.select(keep)
    return f"leaks: {len(leaked)} clips left out, {len(keep)} to train on"


def _first(found: Found) -> str:
    shown = [f"\n  {leak.train} = {leak.evaluation} ({', '.join(leak.by)})" for leak in found.leaks[:FIRST]]
    more = len(found.leaks) - FIRST
    return "".join(shown) + (f"\n  … and {more} more; `atr leaks` prints all" if more > 0 else "")


def _bad_lines(found: Found) -> list[str]:
    if not found.bad:
        return []
    return [
        f"leaks: {len(found.bad)} clips could not be compared; the first: {found.bad[0].key}: {found.bad[0].reason}"
    ]
