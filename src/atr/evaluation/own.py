"""A run's own test set: each corpus by itself, and all together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from atr.checkpoint import read_checkpoint
from atr.config import compose_config
from atr.errors import DataError, UsageError
from atr.evaluation.encode import check_candidates, encode_labels
from atr.evaluation.judge import judge
from atr.evaluation.record import POOLED, Result
from atr.evaluation.run import Evaluated, Subject, classification_of, retrieval_of, saved_set, set_name
from atr.evaluation.sets import EncodedSet, EvaluationSet, encode_set, read_set, set_remarks
from atr.evaluation.tasks import Question, Task
from atr.evaluation.zero_shot import cosines
from atr.pipeline.datamodule import by_corpus
from atr.shards.cache import ShardCache
from atr.shards.remote import is_remote

TOGETHER = "all together"


def config_of(checkpoint: str | Path) -> DictConfig:
    """The configuration of a checkpoint's run; of a released model, which has none, that of a new run."""
    found = read_checkpoint(checkpoint)
    if "evaluation" in found.config:
        return found.config
    cfg = compose_config(["init=null", "data.test=null"])
    cfg.model = found.config.model
    return cfg


def sets_of_run(cfg: DictConfig, name: str = "") -> dict[str, EvaluationSet]:
    """The test sets of a run by corpus.

    Args:
        name: of the checkpoint, for messages.

    Raises:
        DataError: a place is not there, or no clip has one of `data.only_labels`.
        UsageError: the run has no test set.
    """
    if not OmegaConf.to_container(cfg.data).get("test"):  # type: ignore[union-attr]
        raise UsageError(
            f"{name or 'the run'} has no test set of its own; name shard folders, labelled folders or tables"
        )
    places = {corpus: [str(one) for one in folders] for corpus, folders in by_corpus(cfg.data.test).items()}
    remote = any(is_remote(one) for folders in places.values() for one in folders)
    cache = ShardCache(Path(cfg.data.cache).expanduser(), round(cfg.data.cache_gb * 1e9)) if remote else None
    sets = {
        corpus or set_name(folders): read_set(folders, corpus or set_name(folders), cache=cache)
        for corpus, folders in places.items()
    }
    return only(sets, cfg.data.only_labels) if cfg.data.only_labels else sets


def only(sets: Mapping[str, EvaluationSet], labels: list[str]) -> dict[str, EvaluationSet]:
    """The clips with one of these labels.

    Raises:
        DataError: a label stands on no clip.
    """
    known = {label for clips in sets.values() for row in clips.labels for label in row}
    if unknown := [label for label in labels if label not in known]:
        raise DataError(f"no clip has the label {unknown[0]!r}; labels in the data: {', '.join(sorted(known))}")
    kept = {
        name: clips.of([row for row, own in enumerate(clips.labels) if set(own) & set(labels)])
        for name, clips in sets.items()
    }
    return {name: clips for name, clips in kept.items() if len(clips)}


def evaluate_own(subject: Subject, cfg: DictConfig) -> Evaluated:
    """Retrieval and zero-shot classification on the test set of a run, each clip encoded once.

    Raises:
        DataError: more clips are bad than `bad_samples`, or an embedding is not finite.
        UsageError: the run has no test set.
    """
    encoded = {
        name: encode_set(subject.model, clips, cfg.evaluation.windows, cfg.bad_samples)
        for name, clips in sets_of_run(cfg, subject.checkpoint).items()
    }
    if len(encoded) > 1:
        encoded[TOGETHER] = together(encoded)
    done = Evaluated()
    for one in encoded.values():
        done.add(of_set(subject, one, cfg))
    done.saved.pop(TOGETHER, None)  # each corpus has a file of its own, and finds its sounds
    return done


def together(parts: Mapping[str, EncodedSet]) -> EncodedSet:
    """Encoded sets as one; ids get the name of their set before them."""
    sets = list(parts.values())
    rows = sorted(
        (f"{name}/{one.clips.ids[row]}", number, row)
        for number, (name, one) in enumerate(parts.items())
        for row in range(len(one.clips))
    )
    chosen = [(sets[number].clips, row) for _, number, row in rows]
    clips = EvaluationSet(
        name=TOGETHER,
        items=[replace(clips.items[row], name=name) for (name, _, _), (clips, row) in zip(rows, chosen, strict=True)],
        captions=[clips.captions[row] for clips, row in chosen],
        labels=[clips.labels[row] for clips, row in chosen],
        titles=[clips.titles[row] for clips, row in chosen],
        folds=[TOGETHER] * len(rows),
        sources=[clips.sources[row] for clips, row in chosen],
        places=[place for one in sets for place in one.clips.places],
        bad=[], left_out=[], reading=list(range(len(rows))),
    )  # fmt: skip
    audio = torch.stack([sets[number].audio[row] for _, number, row in rows])
    return EncodedSet(clips, audio, sets[0].windows, [])


def of_set(subject: Subject, encoded: EncodedSet, cfg: DictConfig) -> Evaluated:
    """Retrieval where there are captions, zero-shot where clips carry one label each."""
    done = Evaluated()
    if any(encoded.clips.captions):
        done.add(retrieval_of(subject, encoded))
    question = question_of(encoded.clips, cfg.evaluation.labels)
    if question is not None:
        rows = [row for row, labels in enumerate(encoded.clips.labels) if len(labels) == 1]
        templates, clap = list(cfg.evaluation.templates), subject.model.clap
        text, audio = encode_labels(clap, question.labels, templates, subject.model.device), encoded.audio[rows]
        if not text.isfinite().all():
            raise DataError("the model gives NaN or infinite embeddings for labels; it is broken: no numbers are given")
        others = len(encoded.clips) - len(rows)
        left = [f"{others} clips carry no label, or several, and are left out"] if others else []
        found = judge(
            Task(name="own", title=encoded.clips.name), question, audio, cosines(audio, text),
            dataset=encoded.clips.name, prompts="own", templates=templates, windows=encoded.windows,
            remarks=[*set_remarks(encoded), *left], progress=False,
        )  # fmt: skip
        done.results.append(classification_of(subject, found, encoded.clips.name))
        done.saved.setdefault(encoded.clips.name, saved_set(encoded))
    return done


def question_of(clips: EvaluationSet, candidates: Sequence[str]) -> Question | None:
    """The clips with exactly one label, and what they are told apart from; None where there are no two candidates.

    Args:
        candidates: the labels that stand in the set when empty.

    Raises:
        UsageError: a label of the set is none of the candidates.
    """
    rows = [row for row, labels in enumerate(clips.labels) if len(labels) == 1]
    own = [clips.labels[row][0] for row in rows]
    names = sorted(candidates) or sorted(set(own))
    check_candidates(names, own)
    if not rows or len(names) < 2:
        return None
    carried = np.array([[name == label for name in names] for label in own])
    return Question(clips.of(rows), names, carried, [], [])


def flat(results: list[Result]) -> dict[str, float]:
    """Name -> number, as in `metrics.json`: `retrieval/t2a/R@1`, …; of several corpora `clotho/retrieval/…`, too."""
    numbers: dict[str, float] = {}
    several = len({one.protocol.dataset for one in results}) > 1
    for one in results:
        about = one.protocol
        prefix = f"{about.dataset}/" if several and about.dataset != TOGETHER else ""
        task = about.task.replace("-", "_")
        numbers.setdefault(f"{prefix}clips", about.clips)
        numbers[f"{prefix}{task}/clips"] = about.clips
        numbers |= {f"{prefix}{task}/{row.metric}": row.value for row in one.rows[POOLED]}
        counts = {key: value for key, value in about.settings.items() if isinstance(value, int | float)}
        numbers |= {f"{prefix}{task}/{key}": value for key, value in counts.items()}
        numbers |= {f"{prefix}{task}/recall/{label}": value for label, value in one.shown.get("per_class", {}).items()}
    return numbers
