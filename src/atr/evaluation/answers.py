"""Scores of labelled clips -> numbers with intervals, and tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from atr.errors import DataError
from atr.evaluation.bootstrap import Measured, Statistic, measured, ratio, replicate
from atr.evaluation.record import MEAN, POOLED
from atr.evaluation.zero_shot import average_precisions, confusion, precision_draws


def measure(target: np.ndarray, scores: np.ndarray, folds: Sequence[str], several: bool) -> dict[str, list[Measured]]:
    """Accuracy, or with several labels mAP: over all clips and, where there are several folds, their mean and each.

    mAP is the mean over the labels that occur of average precision (`average_precisions`). Intervals are over resamples
    of the clips, those of the mean over folds over resamples of all of them together; a label, or a fold, that no clip
    of a resample has is left out of its mean.

    Args:
        target: bool `(M, C)`; without `several` one label for each clip.
        scores: `(M, C)`; the answer is the label of the highest, the first one at a tie.
        folds: of the clips.

    Raises:
        DataError: a fold is named as another row is.
    """
    everything, rows = np.arange(len(target)), {}
    names = sorted(set(folds))
    if len(names) > 1 and (taken := [name for name in names if name in (POOLED, MEAN)]):
        raise DataError(f"a fold is called {taken[0]!r}, which is what another row is called; rename its folder")
    parts = [np.flatnonzero(np.array(folds) == name) for name in names]
    rows[POOLED] = _measured([everything], target, scores, several)
    if len(names) > 1:
        rows[MEAN] = _measured(parts, target, scores, several)
        for name, part in zip(names, parts, strict=True):
            rows[name] = _measured([np.arange(len(part))], target[part], scores[part], several)
    return rows


def _measured(parts: Sequence[np.ndarray], target: np.ndarray, scores: np.ndarray, several: bool) -> list[Measured]:
    """The mean over parts of the clips."""
    of_parts = [_statistic(target[part], scores[part], several) for part in parts]

    def statistic(weights: np.ndarray) -> np.ndarray:
        found = [one(weights[:, part]) for one, part in zip(of_parts, parts, strict=True)]
        return np.nanmean(found, axis=0)

    (replicates,) = replicate(len(target), statistic)
    value = statistic(np.ones((1, len(target))))[0]
    return [measured("mAP" if several else "accuracy", value, len(target), replicates)]


def _statistic(target: np.ndarray, scores: np.ndarray, several: bool) -> Statistic:
    if not several:
        hit = (target.argmax(axis=1) == scores.argmax(axis=1)).astype(np.float64)
        return ratio(hit, np.ones(len(hit)))
    there = target.any(axis=0)
    return lambda weights: np.nanmean(precision_draws(scores[:, there], target[:, there], weights), axis=1)


def tables(labels: Sequence[str], target: np.ndarray, scores: np.ndarray, several: bool) -> dict[str, Any]:
    """`labels`; `per_class`: share of right answers, or average precision, of those that occur; of clips of one label
    also `confusion`, true label in rows."""
    counts = target.sum(axis=0)
    if several:
        values, extra = average_precisions(scores, target), {}
    else:
        answers = confusion(scores, target)
        values, extra = answers.diagonal() / np.maximum(counts, 1), {"confusion": answers.tolist()}
    rows = zip(labels, counts.tolist(), values.tolist(), strict=True)
    per_class = {label: value for label, count, value in rows if count}
    return {"labels": list(labels), "per_class": per_class} | extra
