"""Linear probe of encoded sets: from one to another, or over folds."""

from typing import Any

import numpy as np

from atr.errors import DataError
from atr.evaluation import probe
from atr.evaluation.answers import measure, tables
from atr.evaluation.labelled import (
    EMBEDDINGS,
    Labelled,
    labelled,
    labels_of_both,
    pair,
    protocol,
    shared,
    shared_by_folds,
    target_of,
)
from atr.evaluation.probe import Probe, linear_probe
from atr.evaluation.record import Result
from atr.evaluation.sets import EncodedSet


def probe_sets(train: EncodedSet, test: EncodedSet, checkpoint: str, checkpoint_sha256: str) -> Result:
    """A linear probe: fitted to the labels of one set, asked about another.

    Accuracy where each clip has one label; mAP with one classifier for each label where a clip has several. Intervals
    are over the test clips; that other training clips would give another probe is not in them. Clips without a label
    are left out and counted. How C is chosen says `linear_probe`: no fold is divided where training has three or more,
    else no recording where sources are known.

    Args:
        checkpoint, checkpoint_sha256: of the model that encoded both, for the protocol.

    Raises:
        DataError: a clip is in both sets, a test label is on no training clip, an embedding is not finite, or there is
            nothing to learn or to answer.
        UsageError: the sets were encoded in different ways.
    """
    learnt, asked = pair(train, test)
    labels, several = labels_of_both(learnt, asked)
    kind, groups = _groups(learnt)
    fitted = linear_probe(learnt.audio, target_of(learnt.clips, labels), asked.audio, groups, several)
    target = target_of(asked.clips, labels)
    rows = measure(target, fitted.scores, asked.clips.folds, several)
    about = {"train": learnt.clips.name, "train_manifest_sha256": learnt.clips.manifest_sha256}
    settings = about | {"train_clips": len(learnt.clips)} | _settings(kind)
    shown = _shown(labels, asked, target, fitted.scores, several) | _choice({learnt.clips.name: fitted})
    if not several:
        most = target_of(learnt.clips, labels).sum(axis=0).argmax()
        shown |= {"chance": 1 / len(labels), "majority": float(target[:, most].mean())}
    return Result(
        protocol("probe", asked, checkpoint, checkpoint_sha256, settings),
        rows,
        shown,
        [*learnt.remarks, *asked.remarks, *shared(learnt, asked), *fitted.remarks],
    )


def probe_folds(encoded: EncodedSet, checkpoint: str, checkpoint_sha256: str) -> Result:
    """A linear probe over folds: each is the test once, for a fit to all others.

    Rows are those of the folds, of all clips with the answers that each got when its fold was the test, and the
    mean over the folds, which is what the publishers of ESC-50 and UrbanSound8K ask for. Otherwise as
    `probe_sets`.

    Raises:
        DataError: as `probe_sets`; there is one fold only, a fold has no labelled clip, or is named as a row is.
    """
    clips = labelled(encoded)
    names = _folds(encoded, clips)
    several = any(len(one) > 1 for one in clips.clips.labels)
    labels = sorted({label for one in clips.clips.labels for label in one})
    folds, target = np.array(clips.clips.folds), target_of(clips.clips, labels)
    scores, fits = np.zeros(target.shape), {}
    remarks, kinds = [*clips.remarks, *shared_by_folds(clips)], set[str]()
    for name in names:
        labels_of_both(clips.of(np.flatnonzero(folds != name)), clips.of(np.flatnonzero(folds == name)))
    for name in names:
        out = folds == name
        learnt = clips.of(np.flatnonzero(~out))
        kind, groups = _groups(learnt)
        fitted = linear_probe(learnt.audio, target[~out], clips.audio[out], groups, several)
        scores[out] = fitted.scores
        fits[name] = fitted
        kinds.add(kind)
        remarks += [f"{name}: {remark}" for remark in fitted.remarks]
    rows = measure(target, scores, clips.clips.folds, several)
    settings = {"folds": names} | _settings(" and ".join(sorted(kinds)))
    shown = _shown(labels, clips, target, scores, several) | _choice(fits)
    return Result(protocol("probe", clips, checkpoint, checkpoint_sha256, settings), rows, shown, remarks)


def _folds(encoded: EncodedSet, clips: Labelled) -> list[str]:
    names = sorted(set(encoded.clips.folds))
    if empty := sorted(set(names) - set(clips.clips.folds)):
        raise DataError(f"fold {empty[0]!r} has no labelled clip: no numbers are given")
    if len(names) < 2:
        raise DataError(f"all clips are in one fold, {names[0]!r}; name a folder for each fold, two or more")
    return names


def _groups(learnt: Labelled) -> tuple[str, list[str]]:
    """What is not divided when C is chosen."""
    if len(set(learnt.clips.folds)) >= 3:
        return "folds", learnt.clips.folds
    if any(learnt.clips.sources):
        return "recordings", learnt.recordings
    return "clips", learnt.clips.ids


def _shown(labels: list[str], asked: Labelled, target: np.ndarray, scores: np.ndarray, several: bool) -> dict[str, Any]:
    shown = tables(labels, target, scores, several)
    if several:
        return shown
    number, answer = target.argmax(axis=1), scores.argmax(axis=1)
    rows = zip(asked.clips.ids, number, answer, strict=True)
    answers = [
        {
            "id": name, "label": labels[true], "answer": labels[said],
            "score_label": float(scores[row, true]), "score_answer": float(scores[row, said]),
        }
        for row, (name, true, said) in enumerate(rows)
    ]  # fmt: skip
    return shown | {"answers": answers}


def _choice(fits: dict[str, Probe]) -> dict[str, Any]:
    """The chosen C of each fit, and what it was chosen by."""
    return {
        "c": {name: fit.c for name, fit in fits.items()},
        "validated": {name: {f"{c:g}": score for c, score in fit.validated.items()} for name, fit in fits.items()},
    }


def _settings(kind: str) -> dict[str, Any]:
    return {
        "embeddings": EMBEDDINGS, "classifier": "logistic regression: scikit-learn, L-BFGS, L2, not standardised",
        "tolerance": probe.TOLERANCE, "iterations": probe.ITERATIONS, "grid_of_c": list(probe.GRID),
        "c_chosen_by": f"cross-validation in the training clips, {probe.PARTS} parts, whole {kind}",
        "interval": "over test clips",
    }  # fmt: skip
