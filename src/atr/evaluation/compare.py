"""Two results files: which differences exceed the noise?"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from atr.errors import DataError
from atr.evaluation.bootstrap import Measured
from atr.evaluation.record import Protocol, Result, read_results

NOT_COMPARED = ("checkpoint", "checkpoint_sha256", "versions")  # what may differ: it is what one compares
SEED = 0
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Difference:
    """B minus A of one number.

    Attributes:
        low, high: its 95 % interval over resamples of the clips.
        p: two-sided: how often resamples give a difference on the other side of 0, times two.
        paired: both were measured on the same clips, and each resample is the same for both.
        protocol: what else differs, e.g. `windows: mean | first`; empty: nothing.
    """

    task: str
    dataset: str
    fold: str
    metric: str
    a: float
    b: float
    low: float
    high: float
    p: float
    paired: bool
    protocol: str

    @property
    def exceeds_noise(self) -> bool:
        """The interval does not hold 0."""
        return self.low > 0 or self.high < 0


def compare(a: Path, b: Path) -> list[Difference]:
    """The numbers that stand in both files, by task, dataset, fold and metric.

    Raises:
        DataError: a file is no results file, a number has no replicates, or the files have nothing in common.
    """
    results = [by_task(read_results(path)) for path in (a, b)]
    shared = [key for key in results[0] if key in results[1]]
    found = [one for key in shared for one in differences(results[0][key], results[1][key])]
    if not found:
        names = [", ".join(f"{task} on {dataset}" for task, dataset, _ in one) for one in results]
        raise DataError(f"{a} has {names[0]}; {b} has {names[1]}: there is nothing to compare")
    return found


def by_task(results: Sequence[Result]) -> dict[Key, Result]:
    """Results by task, dataset and, where a file has several of one task on one set, their number there."""
    keyed: dict[Key, Result] = {}
    for one in results:
        task, dataset = one.protocol.task, one.protocol.dataset
        keyed[task, dataset, sum(key[:2] == (task, dataset) for key in keyed)] = one
    return keyed


def changed_fields(a: Protocol, b: Protocol) -> list[str]:
    """The fields that differ although they should not when two models are compared."""
    return [
        one.name
        for one in fields(Protocol)
        if one.name not in NOT_COMPARED and getattr(a, one.name) != getattr(b, one.name)
    ]


def differences(a: Result, b: Result) -> list[Difference]:
    """B minus A for the numbers that both results have.

    On the same clips (equal manifest and number) the bootstrap is paired: resample k drew the same clips for both.
    On other clips the replicates are taken as independent.

    Raises:
        DataError: a number has no replicates.
    """
    changed = changed_fields(a.protocol, b.protocol)
    protocol = "; ".join(f"{name}: {getattr(a.protocol, name)!r} | {getattr(b.protocol, name)!r}" for name in changed)
    paired = not {"manifest_sha256", "clips"} & set(changed)
    found = []
    for fold, measured in a.rows.items():
        others = {one.metric: one for one in b.rows.get(fold, ())}
        for one in measured:
            if (other := others.get(one.metric)) is not None:
                low, high, p = _interval(one, other, paired)
                found.append(
                    Difference(
                        a.protocol.task, a.protocol.dataset, fold, one.metric, one.value, other.value, low, high, p,
                        paired, protocol,
                    )
                )  # fmt: skip
    return found


def _interval(a: Measured, b: Measured, paired: bool) -> tuple[float, float, float]:
    """95 % interval of b - a, and p."""
    before, after = a.replicates, b.replicates
    if not paired:
        after = np.random.default_rng(SEED).permutation(after)
    count = min(len(before), len(after))
    differences = after[:count] - before[:count]
    differences = differences[~np.isnan(differences)]  # a resample may give no number
    if not len(differences):
        raise DataError(f"{a.metric} has no replicates; measure it again with `atr eval`")
    low, high = np.percentile(differences, [2.5, 97.5])
    share = min(float((differences <= 0).mean()), float((differences >= 0).mean()))
    return float(low), float(high), min(1.0, 2 * max(share, 1 / len(differences)))


def print_differences(found: Sequence[Difference], a: Path, b: Path) -> None:
    """A table for each set and fold on the screen, and what else differs between the two."""
    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"A  {a}\nB  {b}")
    for (task, dataset, fold), group in groupby(found, key=lambda one: (one.task, one.dataset, one.fold)):
        rows = list(group)
        say(f"{task}  {dataset}  {fold}" + ("" if rows[0].paired else "  (not the same clips: not paired)"))
        table = Table("", "A", "B", "B - A (95 % interval)", "p", "")
        for one in rows:
            verdict = ("higher" if one.b > one.a else "lower") if one.exceeds_noise else "noise"
            difference = f"{one.b - one.a:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
            table.add_row(one.metric, f"{one.a:.3f}", f"{one.b:.3f}", difference, f"{one.p:.3f}", verdict)
        console.print(table)
    for line in dict.fromkeys(f"{one.task} {one.dataset}: {one.protocol}" for one in found if one.protocol):
        say(f"not the same protocol: {line}")
    say(
        f"{sum(one.exceeds_noise for one in found)} of {len(found)} differences exceed the noise of these clips; of "
        "many numbers one in twenty does by chance.\nOther seeds of training are noise that is not in here."
    )
