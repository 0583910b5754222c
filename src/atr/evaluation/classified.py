"""What a report draws of a classification: confusion matrix, numbers of each label, the hardest clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atr.errors import DataError
from atr.evaluation.record import Result

EXTREMES = 20  # labels shown from either end where there are more than twice as many
MIXED_UP = 12  # pairs of labels listed


@dataclass(frozen=True)
class Answer:
    """What a model answered for a clip, with the cosines of the true label and of the answer."""

    label: str
    answer: str
    score_label: float
    score_answer: float

    @property
    def right(self) -> bool:
        """The answer is the true label."""
        return self.answer == self.label

    @property
    def margin(self) -> float:
        """By how much the answer is nearer than the true label."""
        return self.score_answer - self.score_label


@dataclass(frozen=True)
class Classified:
    """A result's `shown`, checked.

    Attributes:
        labels: C names. confusion: int64 `(C, C)`, true label in rows; None for clips with several labels.
        per_class: label -> recall, or average precision where there is no confusion matrix.
        answers: by the clip's id; empty for clips with several labels.
    """

    labels: list[str]
    confusion: np.ndarray | None
    per_class: dict[str, float]
    answers: dict[str, Answer]


@dataclass(frozen=True)
class Bars:
    """Numbers of labels, best first by the first run that has them. `left_out`: labels between the extremes."""

    rows: list[tuple[str, list[float | None]]]
    left_out: int


@dataclass(frozen=True)
class MixedUp:
    """`clips` of the `of` clips with a label were answered with another one."""

    label: str
    answer: str
    clips: int
    of: int


def read_classified(result: Result) -> Classified | None:
    """What there is to draw of a result; None for one that is no classification.

    Raises:
        DataError: it is not as `atr eval` writes it.
    """
    shown = result.shown
    if not {"confusion", "per_class", "answers"} & set(shown):
        return None
    try:
        labels = [str(label) for label in shown.get("labels", [])]
        confusion = np.array(shown["confusion"], np.int64) if "confusion" in shown else None
        if confusion is not None and confusion.shape != (len(labels), len(labels)):
            raise ValueError(f"a confusion matrix of shape {confusion.shape} for {len(labels)} labels")
        per_class = {str(label): float(value) for label, value in shown.get("per_class", {}).items()}
        answers = {
            str(one["id"]): Answer(
                str(one["label"]), str(one["answer"]), float(one["score_label"]), float(one["score_answer"])
            )
            for one in shown.get("answers", [])
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"what should be shown of {result.protocol.task} on {result.protocol.dataset} is damaged "
            f"({type(error).__name__}: {error}); measure it again with `atr eval`"
        ) from error
    return Classified(labels, confusion, per_class, answers)


def hardest(runs: Sequence[Mapping[str, Answer]], most: int) -> list[str]:
    """The ids of the clips that are wrong by the largest margin, of several runs in turn, each clip once.

    Args:
        runs: the answers of each, by id.
    """
    wrong = [[name for name, one in run.items() if not one.right] for run in runs]
    ranked = [sorted(ids, key=lambda name: (-run[name].margin, name)) for ids, run in zip(wrong, runs, strict=True)]
    turns = [ids[place] for place in range(max(map(len, ranked), default=0)) for ids in ranked if place < len(ids)]
    return list(dict.fromkeys(turns))[:most]


def bars(runs: Sequence[Mapping[str, float]]) -> Bars:
    """The numbers of each label in each run; of many labels the best and the worst."""
    names = dict.fromkeys(label for run in runs for label in run)
    value = {label: next(run[label] for run in runs if label in run) for label in names}
    order = sorted(names, key=lambda label: (-value[label], label))
    left_out = len(order) - 2 * EXTREMES
    if left_out > 0:
        order = order[:EXTREMES] + order[-EXTREMES:]
    return Bars([(label, [run.get(label) for run in runs]) for label in order], max(0, left_out))


def mixed_up(labels: Sequence[str], confusion: np.ndarray) -> list[MixedUp]:
    """The pairs of labels that are mixed up most often."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MIXED_UP]
    pairs = [(int(place) // len(labels), int(place) % len(labels)) for place in order]
    return [
        MixedUp(labels[true], labels[answer], int(wrong[true, answer]), int(confusion[true].sum()))
        for true, answer in pairs
        if wrong[true, answer]
    ]
