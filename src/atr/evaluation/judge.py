"""Cosines of clips and labels -> the numbers of a zero-shot task with their intervals, by class and by fold."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from atr.errors import DataError
from atr.evaluation.bootstrap import DRAWS, Measured, measured, resamples
from atr.evaluation.record import MEAN, POOLED
from atr.evaluation.sets import EvaluationSet
from atr.evaluation.tasks import Question, Task
from atr.evaluation.zero_shot import (
    CUTOFFS,
    average_precisions,
    confusion,
    label_ranking,
    per_class,
    precision_draws,
)
from atr.inference import some
from atr.shards.progress import clip_bar

NAMES = {1: "accuracy", 5: "top5"}  # of the measures, by how many labels are looked at
WORK = 5e9  # clips x labels x resamples of mAP; half a minute. More clips or labels get fewer resamples, at least:
FEWEST_DRAWS = 100

# Rows of the clips, weights of them `(R, n)` -> the number on each resample `(R,)`.
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass
class ClassScore:
    """A label: the clips that carry it, and the share of right answers among them, or its average precision."""

    clips: int
    value: float


@dataclass
class TaskResult:
    """What a task came to with a set of prompts.

    Attributes:
        task: what was asked.
        dataset: its name, as its publisher has it.
        clips: that were asked about, in the order of their ids; `manifest_sha256` is theirs.
        audio: their embeddings `(N, D)`.
        prompts: name of the set. templates: those of it that were used.
        windows: how longer clips were covered.
        labels: C candidates.
        chance: what answers by chance would come to.
        rows: `POOLED` over all clips; where there are several folds also each fold, and `MEAN`. Metrics are
            `accuracy` and `top5` (where there are more than five labels), or `mAP`.
        per_class: by label; without those that no clip carries.
        confusion: int64 `(C, C)`: clips that carry the row's label and were answered the column's; None with mAP.
        answers: the most similar label of each clip, the first one at a tie.
        cosine: float32 `(N, C)`.
        carried: bool `(N, C)`.
        remarks: what a reader of the numbers should know, each a line.
    """

    task: Task
    dataset: str
    clips: EvaluationSet
    audio: Tensor
    prompts: str
    templates: list[str]
    windows: str
    labels: list[str]
    chance: float
    rows: dict[str, list[Measured]]
    per_class: dict[str, ClassScore]
    confusion: np.ndarray | None
    answers: list[str]
    cosine: np.ndarray
    carried: np.ndarray
    remarks: list[str]


def judge(
    task: Task,
    question: Question,
    audio: Tensor,
    cosine: np.ndarray,
    *,
    dataset: str,
    prompts: str,
    templates: list[str],
    windows: str,
    remarks: Sequence[str] = (),
    progress: bool = True,
) -> TaskResult:
    """The numbers of a task. Intervals are of resamples of the clips.

    Args:
        audio: `(N, D)` of the question's clips. cosine: `(N, C)` of them and the labels.
        remarks: that stand before its own.
        progress: shows a bar on a terminal (stderr) while mAP is resampled.
    """
    carried, tagging = question.carried, task.kind == "multi-label"
    draws = _draws(cosine) if tagging else DRAWS
    if tagging:
        values = average_precisions(cosine, carried)
        statistics = {"mAP": _mean_precision(cosine, carried)}
    else:
        cutoffs = [k for k in CUTOFFS if k == 1 or k < len(question.labels)]
        ranking = label_ranking(cosine, carried)
        hits = {NAMES[k]: ranking.recall(k) for k in cutoffs}
        values = per_class(hits["accuracy"], carried)
        statistics = {name: _mean(hit) for name, hit in hits.items()}
    parts = len(set(question.clips.folds))
    with clip_bar(draws * (parts + 2 if parts > 1 else 1), progress and tagging, "resamples") as on_draw:
        rows = _by_fold(statistics, np.array(question.clips.folds), draws, on_draw)
    own = [f"{len(question.left_out)} clips carry none of the labels and are left out"] if question.left_out else []
    own += [f"no clip carries {some(question.empty)}: left out of the mean"] if question.empty else []
    return TaskResult(
        task=task,
        dataset=dataset,
        clips=question.clips,
        audio=audio,
        prompts=prompts,
        templates=templates,
        windows=windows,
        labels=question.labels,
        chance=float(carried.mean() if not question.empty else carried[:, carried.any(axis=0)].mean()),
        rows=rows,
        per_class={
            label: ClassScore(int(count), float(value))
            for label, count, value in zip(question.labels, carried.sum(axis=0), values, strict=True)
            if count
        },
        confusion=None if tagging else confusion(cosine, carried),
        answers=[question.labels[i] for i in cosine.argmax(axis=1)],
        cosine=cosine,
        carried=carried,
        remarks=[*remarks, *own],
    )


def _draws(cosine: np.ndarray) -> int:
    return int(np.clip(WORK / cosine.size, FEWEST_DRAWS, DRAWS))


def _mean(values: np.ndarray) -> Statistic:
    def statistic(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return weights @ values[rows] / weights.sum(axis=1)

    return statistic


def _mean_precision(cosine: np.ndarray, carried: np.ndarray) -> Statistic:
    """mAP: labels that no clip of a resample carries are left out of its mean."""

    def statistic(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        found = precision_draws(cosine[rows], carried[rows], weights)
        counts = np.isfinite(found).sum(axis=1)
        return np.nansum(found, axis=1) / np.where(counts, counts, np.nan)

    return statistic


def _by_fold(
    statistics: dict[str, Statistic], folds: np.ndarray, draws: int, on_draw: Callable[[], object]
) -> dict[str, list[Measured]]:
    """All clips; with several folds each of them, resampled by itself, and the mean of their numbers, whose resamples
    are drawn from all clips together."""
    everything = np.arange(len(folds))
    names = sorted(set(folds.tolist()), key=_numbered)
    several = {name: np.flatnonzero(folds == name) for name in names if len(names) > 1}
    if taken := [name for name in several if name in (POOLED, MEAN)]:
        raise DataError(f"a fold is called {taken[0]!r}, which is what another row is called; rename its folder")

    def over_folds(statistic: Statistic) -> Statistic:
        def mean(_: np.ndarray, weights: np.ndarray) -> np.ndarray:
            return np.mean([statistic(rows, weights[:, rows]) for rows in several.values()], axis=0)

        return mean

    result = {POOLED: _measured(statistics, everything, draws, on_draw)}
    if several:
        averaged = {name: over_folds(statistic) for name, statistic in statistics.items()}
        result[MEAN] = _measured(averaged, everything, draws, on_draw)
    return result | {fold: _measured(statistics, rows, draws, on_draw) for fold, rows in several.items()}


def _numbered(fold: str) -> list[tuple[int, str]]:
    """An order in which fold2 stands before fold10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", fold)]


def _measured(
    statistics: dict[str, Statistic], rows: np.ndarray, draws: int, on_draw: Callable[[], object]
) -> list[Measured]:
    once = np.ones((1, len(rows)))
    values = {name: float(statistic(rows, once)[0]) for name, statistic in statistics.items()}
    replicates: dict[str, list[float]] = {name: [] for name in statistics}
    for weights in resamples(len(rows)):
        left = draws - len(next(iter(replicates.values())))
        for name, statistic in statistics.items():
            replicates[name] += statistic(rows, weights[:left]).tolist()
        for _ in range(min(left, len(weights))):
            on_draw()
        if left <= len(weights):
            break
    return [measured(name, value, len(rows), np.array(replicates[name])) for name, value in values.items()]
