"""Answers to labelled clips -> numbers with intervals, and tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from atr.evaluation.bootstrap import Measured, Statistic, measured, ratio, replicate


def accuracy(number: np.ndarray, answer: np.ndarray) -> Measured:
    """The share of right answers.

    Args:
        number: int64 `(M,)`, the clips' classes. answer: int64 `(M,)`.
    """
    hit = (number == answer).astype(np.float64)
    (replicates,) = replicate(len(hit), ratio(hit, np.ones(len(hit))))
    return measured("accuracy", hit.mean(), len(hit), replicates)


def mean_average_precision(target: np.ndarray, scores: np.ndarray) -> Measured:
    """mAP: the mean over the labels that stand on a clip of their average precision.

    Average precision is the sum over thresholds of (recall gained) * precision, each score a threshold, so clips of
    equal scores come in together. A label that no clip of a resample carries is left out of that resample.

    Args:
        target: bool `(M, C)`, scores: `(M, C)`.
    """
    there = target.any(axis=0)
    statistic = _mean_over_labels(target[:, there], scores[:, there])
    (replicates,) = replicate(len(target), statistic)
    return measured("mAP", statistic(np.ones((1, len(target))))[0], len(target), replicates)


def average_precision(target: np.ndarray, scores: np.ndarray) -> Statistic:
    """Average precision of one label as a function of the clips' weights `(K, M)`; NaN where it has no weight.

    Args:
        target: bool `(M,)`, scores: `(M,)`.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of each group of equal scores
    positive = target[order].astype(np.float64)

    def statistic(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, order]
        above = np.cumsum(drawn, axis=1)[:, ends]
        right = np.cumsum(drawn * positive, axis=1)[:, ends]
        gained = np.diff(right, prepend=0.0, axis=1)
        with np.errstate(invalid="ignore"):  # nothing is gained where nothing is drawn
            return (gained * (right / np.maximum(above, 1.0))).sum(axis=1) / right[:, -1]

    return statistic


def _mean_over_labels(target: np.ndarray, scores: np.ndarray) -> Statistic:
    labels = [average_precision(target[:, label], scores[:, label]) for label in range(target.shape[1])]

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.nanmean([label(weights) for label in labels], axis=0)

    return statistic


def mean_of(parts: Sequence[Measured]) -> Measured:
    """The mean over parts that share no clip, each drawn from by itself."""
    replicates = np.mean([one.replicates for one in parts], axis=0)
    value = float(np.mean([one.value for one in parts]))
    return measured(parts[0].metric, value, sum(one.n for one in parts), replicates)


def tables(labels: Sequence[str], number: np.ndarray, answer: np.ndarray) -> dict[str, Any]:
    """`confusion` (true label in rows) and `per_class`: clips, recall and precision; None where there are none."""
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (number, answer), 1)
    clips, answers, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    per_class = {
        label: {
            "clips": int(clips[i]),
            "recall": float(right[i] / clips[i]) if clips[i] else None,
            "precision": float(right[i] / answers[i]) if answers[i] else None,
        }
        for i, label in enumerate(labels)
    }
    return {"confusion": confusion.tolist(), "per_class": per_class}


def tables_of_several(labels: Sequence[str], target: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """`per_class` of clips that carry several labels: clips, average precision; None where there are none."""
    every = np.ones((1, len(target)))
    return {
        "per_class": {
            label: {
                "clips": int(target[:, i].sum()),
                "average_precision": float(average_precision(target[:, i], scores[:, i])(every)[0])
                if target[:, i].any()
                else None,
            }
            for i, label in enumerate(labels)
        }
    }
