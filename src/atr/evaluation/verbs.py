"""What the verbs of `atr eval` do: a checkpoint and places -> results."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from atr.captions import captioner_of
from atr.classify import read_labels
from atr.errors import DataError, UsageError
from atr.evaluation.captioner import beside_run, caption_set
from atr.evaluation.few_shot import SHOTS
from atr.evaluation.few_shot import few_shot as few_shots
from atr.evaluation.files import read_embeddings, read_relevance
from atr.evaluation.judge import TaskResult
from atr.evaluation.keywords import read_keywords
from atr.evaluation.own import config_of, sets_of_run
from atr.evaluation.probe_sets import probe_folds, probe_sets
from atr.evaluation.record import POOLED, Protocol, Result
from atr.evaluation.retrieval import measure_retrieval
from atr.evaluation.run import (
    Evaluated,
    Subject,
    classification_of,
    counts,
    digest,
    retrieval_of,
    saved_set,
    set_name,
    table_of,
)
from atr.evaluation.saved import SavedSet
from atr.evaluation.sets import BAD_SHARE, EncodedSet, EvaluationSet, encode_set, read_set
from atr.evaluation.suite import classify_set, run_suite
from atr.evaluation.tasks import OWN, Kind, Task, find_prompts
from atr.inference import load
from atr.models.decode import DEFAULT, Decoding
from atr.pipeline.datamodule import by_corpus
from atr.provenance import environment
from atr.shards.remote import is_remote
from atr.shards.transfer import shown


def retrieve(
    checkpoint: str | Path,
    places: Sequence[str] = (),
    relevance: Path | None = None,
    windows: str = "mean",
    bad_share: float = 0.01,
) -> Evaluated:
    """Retrieval on each place by itself, or on the run's own test set.

    Args:
        checkpoint: what `atr.load` takes.
        relevance: a table of further relevant pairs; with one place only.

    Raises:
        DataError: see `read_set`, `encode_set`, `retrieval`; or a set has no captions.
        UsageError: there is no set, or a relevance table for several.
    """
    subject = Subject.of(load(checkpoint), checkpoint)
    sets = sets_of(checkpoint, places)
    if relevance is not None and len(sets) > 1:
        raise UsageError(f"--relevance is a table for one set; {len(sets)} are given")
    done = Evaluated()
    said = "has no captions to search by; labels are for `atr eval zero-shot`"
    lacking = [f"{one.name} {said}" for one in sets if not any(one.captions)]
    if lacking and (places or len(lacking) == len(sets)):
        raise DataError(lacking[0])
    done.missing += lacking
    for clips in (one for one in sets if any(one.captions)):
        encoded = encode_set(subject.model, clips, windows, bad_share)
        done.add(retrieval_of(subject, encoded, relevance))
    return done


def retrieve_embeddings(path: Path, relevance: Path | None = None) -> Evaluated:
    """Retrieval from a file of embeddings, of any model.

    Raises:
        DataError: see `read_embeddings`, `read_relevance`.
    """
    audio, text, owner, ids = read_embeddings(path)
    pairs = None
    if relevance is not None:
        with np.load(path, allow_pickle=False) as file:
            captions = file["captions"] if "captions" in file.files else np.zeros(0)
            if captions.dtype.kind != "U" or captions.shape != (len(text),):
                raise DataError(f"{path} has no array captions ({len(text)},) of text, by which {relevance} names them")
            pairs = read_relevance(relevance, [str(one) for one in captions.tolist()], ids)
    rows = measure_retrieval(audio, text, owner, ids, pairs)
    protocol = Protocol(
        "retrieval", path.stem, digest(owner, ids), len(audio), str(path), digest(audio, text),
        settings=counts(len(audio), owner, pairs) | table_of(relevance, pairs), versions=environment(),
    )  # fmt: skip
    return Evaluated([Result(protocol, {POOLED: rows})])


def classify(
    checkpoint: str | Path,
    places: Sequence[str] = (),
    suite: str = "",
    root: Path = Path("data"),
    prompts: Sequence[str] = (),
    templates: Sequence[str] = (),
    labels_file: Path | None = None,
    windows: str = "mean",
    bad_share: float = 0.01,
) -> Evaluated:
    """Zero-shot classification: a suite, places as one set with its folds, or the run's own test set.

    Clips of places carry one label each, or several, and then the number is mAP.

    Args:
        root: folder that the suite's corpora lie in.
        prompts: names of sets; the paper's, or the suite's own, when neither these nor `templates` are given.
        labels_file: candidates, one in each line; the labels that stand on clips when None.

    Raises:
        DataError, UsageError: see `run_suite`, `classify_set`; or a suite and places are both given.
    """
    if suite and (places or labels_file):
        raise UsageError("--suite brings its own data and labels; leave the places and --labels-file out")
    subject = Subject.of(load(checkpoint), checkpoint)
    if suite:
        ran = run_suite(
            subject.model, suite, data=root, prompts=prompts, templates=templates, windows=windows, bad_share=bad_share
        )
        done = classified(subject, ran.results)
        done.missing += [f"{one.task.title}: {one.advice}" for one in ran.missing]
        done.failed += [f"{name}: {reason}" for name, reason in ran.failed.items()]
        return done
    labels = tuple(read_labels(labels_file)) if labels_file else ()
    chosen = find_prompts(prompts or ([] if templates else ["paper"]), templates)
    own = [read_set(places, set_name(places))] if places else sets_of(checkpoint, ())
    done = Evaluated()
    said = "has no labels to tell apart; captions are for `atr eval retrieval`"
    lacking = [f"{one.name} {said}" for one in own if not any(one.labels)]
    if len(lacking) == len(own):
        raise DataError(lacking[0])
    done.missing += lacking
    for clips in (one for one in own if any(one.labels)):
        kind: Kind = "multi-label" if any(len(one) > 1 for one in clips.labels) else "single"
        task = Task(name=OWN, title=clips.name, labels=labels, kind=kind)
        found = classify_set(subject.model, clips, task, chosen, windows=windows, bad_share=bad_share)
        done.add(classified(subject, found))
    return done


def caption(
    checkpoint: str | Path,
    places: Sequence[str] = (),
    decoding: Decoding = DEFAULT,
    keywords: Path | None = None,
    bad_share: float = BAD_SHARE,
) -> Evaluated:
    """Captions of each place by itself, or of the run's own test set, against the captions there.

    Args:
        keywords: a YAML file of `label: [word, …]`; for the run's own test set that of the run when None.

    Raises:
        DataError: see `caption_set`, `read_keywords`.
        UsageError: the checkpoint holds no captioner, or there is no set.
    """
    subject = Subject.of(load(checkpoint), checkpoint)
    captioner_of(subject.model)
    cfg, sets = config_of(checkpoint), sets_of(checkpoint, places)
    given = keywords or (None if places else cfg.evaluation.get("keywords"))
    if keywords is None and given and not Path(given).is_file():  # the run's own, read elsewhere
        beside = beside_run(cfg, None)
        beside = replace(
            beside, remarks=[*beside.remarks, f"names_label: {given} is not here; name it with --keywords"]
        )
    else:
        beside = beside_run(cfg, read_keywords(given) if given else None)
    done = Evaluated()
    for clips in sets:
        done.add(caption_set(subject, clips, decoding, beside, bad_share))
    return done


def classified(subject: Subject, found: Sequence[TaskResult]) -> Evaluated:
    """Results of tasks, called after the task, and after the prompts too where it was asked with several."""
    names = [one.task.title if one.task.name == OWN else one.task.name for one in found]
    asked = Counter(names)
    done = Evaluated()
    for own, one in zip(names, found, strict=True):
        name = own if asked[own] == 1 else f"{own} ({one.prompts} prompts)"
        done.results.append(classification_of(subject, one, name))
        done.saved[name] = saved_set(EncodedSet(one.clips, one.audio, one.windows, []))
    return done


def sets_of(checkpoint: str | Path, places: Sequence[str]) -> list[EvaluationSet]:
    """Each place as a set, or the corpora of the run's own test set."""
    if places:
        names = Counter(set_name([place]) for place in places)
        return [
            read_set([place], set_name([place]) if names[set_name([place])] == 1 else str(place)) for place in places
        ]
    cfg = config_of(checkpoint)
    for folders in by_corpus(cfg.data.get("test") or []).values():
        if remote := [str(one) for one in folders if is_remote(str(one))]:
            raise UsageError(
                f"the test set of {checkpoint} is remote ({shown(remote[0])}); what a file names is neither "
                "fetched nor run: name the place on the command line"
            )
    return list(sets_of_run(cfg, str(checkpoint)).values())


def probe(
    checkpoint: str | Path,
    folds: Sequence[str] = (),
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    windows: str = "mean",
    bad_share: float = 0.01,
) -> Evaluated:
    """A linear probe: over folds, or fitted to some places and asked about others.

    Raises:
        DataError: see `probe_folds`, `probe_sets`.
        UsageError: both ways are asked for, or none.
    """
    subject = Subject.of(load(checkpoint), checkpoint)
    if not train and not test and len(folds) > 1:
        encoded = encode_set(subject.model, read_set(folds, set_name(folds)), windows, bad_share)
        return Evaluated([probe_folds(encoded, subject.checkpoint, subject.sha256)], saved_sets(encoded))
    learnt, asked = learnt_and_asked(subject, folds, train, test, windows, bad_share)
    return Evaluated([probe_sets(learnt, asked, subject.checkpoint, subject.sha256)], saved_sets(asked))


def few_shot(
    checkpoint: str | Path,
    train: Sequence[str],
    test: Sequence[str],
    shots: Sequence[int] = (),
    windows: str = "mean",
    bad_share: float = 0.01,
) -> Evaluated:
    """Classification of some places from a few clips of each class of others.

    Raises:
        DataError, UsageError: see `few_shot` of `atr.evaluation.few_shot`.
    """
    subject = Subject.of(load(checkpoint), checkpoint)
    learnt, asked = learnt_and_asked(subject, (), train, test, windows, bad_share)
    result = few_shots(learnt, asked, subject.checkpoint, subject.sha256, shots or SHOTS)
    return Evaluated([result], saved_sets(asked))


def learnt_and_asked(
    subject: Subject, folds: Sequence[str], train: Sequence[str], test: Sequence[str], windows: str, bad_share: float
) -> tuple[EncodedSet, EncodedSet]:
    """The sets to learn from and to ask about.

    Raises:
        UsageError: one of them is not named, or folds beside them.
    """
    if folds or not train or not test:
        raise UsageError("name two or more folders as folds, or --train and --test")
    sets = [read_set(places, set_name(places)) for places in (train, test)]
    learnt, asked = (encode_set(subject.model, one, windows, bad_share) for one in sets)
    return learnt, asked


def saved_sets(encoded: EncodedSet) -> dict[str, SavedSet]:
    """A set's embeddings, without captions, by its name."""
    return {encoded.clips.name: saved_set(encoded)}
