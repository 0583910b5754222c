"""A linear classifier on frozen embeddings: how much of the labels is there to be read?"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from atr.errors import DataError

GRID = tuple(10.0**power for power in range(-2, 5))  # of C, the inverse of the L2 penalty's weight
PARTS = 5  # of the training clips, when C is chosen
TOLERANCE = 1e-7  # of the largest entry of the mean loss's gradient; with 1e-4 answers still change
ITERATIONS = 5000
SEED = 0  # of the parts where clips have no groups


@dataclass(frozen=True)
class Probe:
    """What a linear probe came to.

    Attributes:
        scores: of the test clips, float64 `(M, C)`: probabilities; of multi-label clips each label's own.
        c: the chosen C. validated: what each C gave within the training clips: accuracy, or mAP of multi-label clips.
        remarks: what a reader should know about the fit.
    """

    scores: np.ndarray
    c: float
    validated: dict[float, float]
    remarks: list[str] = field(default_factory=list)


def linear_probe(
    train: np.ndarray,
    target: np.ndarray,
    test: np.ndarray,
    groups: Sequence[str],
    several: bool = False,
    grid: Sequence[float] = GRID,
) -> Probe:
    """Logistic regression, fitted to training clips and asked about test clips.

    Scikit-learn's `LogisticRegression` (L-BFGS, L2 penalty on all but the intercepts, float64): multinomial, or
    one classifier for each label where clips carry several. Features are taken as they are, not standardised. C comes
    from the grid by cross-validation within the training clips: in up to `PARTS` parts each group is in one of them,
    each clip is answered by a fit to the other parts, and the C whose answers are best (the smallest of equal ones) is
    fitted to all training clips. The same input gives the same numbers.

    Args:
        train: `(N, D)`, test: `(M, D)`, finite.
        target: bool `(N, C)`, the labels of the training clips.
        groups: of the training clips, e.g. their folds or recordings; as many as clips where each is one of its own.
        several: clips carry several labels; else each carries one.
        grid: of C, ascending, two or more.

    Raises:
        DataError: there is no clip, a value is NaN or infinite, or there is nothing to tell apart or to choose C by.
    """
    check_features(train, test)
    check_target(target)
    train, test = train.astype(np.float64), test.astype(np.float64)
    # One thread: these are many small products, whose threads wait for each other (1.3 against 85 s of processor time
    # beside other processes); and the numbers are the same on any number of processors.
    with threadpool_limits(1):
        validated, remarks = _validate(train, target, inner_parts(target, groups), several, grid)
        best = max(validated, key=lambda c: (validated[c], -c))
        scores, unfinished = fit(train, target, test, best, several)
    beside = {grid[0]: grid[1], grid[-1]: grid[-2]}.get(best)
    if beside is not None and validated[best] > validated[beside]:
        remarks.append(f"the chosen C={best:g} is at the end of the grid {grid[0]:g} … {grid[-1]:g}")
    if unfinished:
        remarks.append(f"fits at the chosen C={best:g} stopped at {ITERATIONS} iterations: {unfinished}")
    return Probe(scores, best, validated, remarks)


def _validate(
    train: np.ndarray, target: np.ndarray, parts: np.ndarray, several: bool, grid: Sequence[float]
) -> tuple[dict[float, float], list[str]]:
    """What each C gives where each part is answered by a fit to the others, and remarks."""
    validated, remarks = {}, []
    for c in grid:
        scores, unfinished = np.zeros(target.shape), 0
        for part in range(parts.max() + 1):
            out = parts == part
            scores[out], count = fit(train[~out], target[~out], train[out], c, several)
            unfinished += count
        validated[c] = mean_score(target, scores, several)
        if unfinished:
            remarks.append(f"fits at C={c:g} stopped at {ITERATIONS} iterations while C was chosen: {unfinished}")
    return validated, remarks


def inner_parts(target: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Parts of the training clips to choose C by, with labels spread evenly: int64 `(N,)`, no group in two parts.

    Clips of several labels are spread by the rarest of theirs.

    Raises:
        DataError: there are no two parts.
    """
    rarest = np.where(target, target.sum(axis=0), len(target) + 1).argmin(axis=1)
    distinct, group = np.unique(np.array(groups), return_inverse=True)
    count = min(PARTS, len(distinct), int(np.bincount(rarest).max()))
    parts = np.zeros(len(target), np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # it is in fewer parts then
        if count > 1:
            splits = StratifiedGroupKFold(count, shuffle=True, random_state=SEED).split(target, rarest, group)
            for part, (_, out) in enumerate(splits):
                parts[out] = part
    if not parts.any() or parts.all():
        raise DataError(
            f"C cannot be chosen within the training clips: there are {len(target)} of {len(distinct)} groups, and at "
            f"most {np.bincount(rarest).max()} of a label; give the probe more of them, or measure few-shot"
        )
    return np.unique(parts, return_inverse=True)[1].astype(np.int64)  # a part may be empty where groups are few


def mean_score(target: np.ndarray, scores: np.ndarray, several: bool) -> float:
    """Accuracy, or with several labels the mean over those that occur of average precision."""
    if not several:
        return float((target.argmax(axis=1) == scores.argmax(axis=1)).mean())
    there = target.any(axis=0)
    return float(average_precision_score(target[:, there], scores[:, there], average="macro"))


def check_features(train: np.ndarray, test: np.ndarray) -> None:
    """Refuses what gives no numbers.

    Raises:
        DataError: an empty split, or a value that is NaN or infinite.
    """
    for name, values in (("training", train), ("test", test)):
        if not len(values):
            raise DataError(f"there is no {name} clip: no numbers are given")
        if broken := int((~np.isfinite(values).all(axis=1)).sum()):
            raise DataError(
                f"the embeddings of {broken} of {len(values)} {name} clips are NaN or infinite; the model is broken "
                "(training diverged?): no numbers are given"
            )


def check_target(target: np.ndarray) -> None:
    """Refuses labels, bool `(N, C)`, that leave nothing to tell apart.

    Raises:
        DataError: there is one label only, or one stands on every clip.
    """
    if target.shape[1] < 2:
        raise DataError("all training clips have the same label; there must be two or more to tell apart")
    if everywhere := int(target.all(axis=0).sum()):
        raise DataError(f"{everywhere} labels stand on every training clip; there is nothing to tell them apart from")


def fit(train: np.ndarray, target: np.ndarray, test: np.ndarray, c: float, several: bool) -> tuple[np.ndarray, int]:
    """Probabilities of the test clips' labels, `(M, C)`, at one C, and how many fits did not converge.

    A part of the training clips may lack a label, or have one only: its probability is 0, or 1.
    """
    scores = np.zeros((len(test), target.shape[1]))
    if not several:
        number = target.argmax(axis=1)
        columns = np.unique(number)
        if len(columns) == 1:
            scores[:, columns] = 1.0
            return scores, 0
        scores[:, columns], unfinished = _regression(train, number, test, c)
        return scores, unfinished
    unfinished = 0
    for label, column in enumerate(target.T):
        if column.all() or not column.any():
            scores[:, label] = column[0]
            continue
        both, count = _regression(train, column, test, c)
        scores[:, label] = both[:, 1]
        unfinished += count
    return scores, unfinished


def _regression(train: np.ndarray, number: np.ndarray, test: np.ndarray, c: float) -> tuple[np.ndarray, int]:
    """Probabilities of the classes that occur, ascending, and 1 where the fit did not converge."""
    model = LogisticRegression(C=c, solver="lbfgs", tol=TOLERANCE, max_iter=ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(train, number)
    unfinished = 0
    for one in caught:
        if issubclass(one.category, ConvergenceWarning):
            unfinished = 1
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return model.predict_proba(test), unfinished
