"""Zero-shot classification of whole suites: what is there is measured, what is missing is listed with its source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from atr.datasets.corpus import find_corpus
from atr.errors import DataError, UsageError
from atr.evaluation.encode import encode_labels
from atr.evaluation.judge import TaskResult, judge
from atr.evaluation.sets import BAD_SHARE, EncodedSet, EvaluationSet, encode_set, read_set, set_remarks
from atr.evaluation.tasks import Task, ask, find_prompts, find_suite, find_tasks, templates_for
from atr.evaluation.zero_shot import cosines
from atr.inference import AudioTextModel
from atr.shards.cache import ShardCache
from atr.shards.remote import is_remote

Prompts = Mapping[str, Mapping[str, list[str]]]


@dataclass
class Missing:
    """A task whose corpus is not there: where it was looked for, and what to do."""

    task: Task
    place: str
    advice: str


@dataclass
class SuiteResult:
    """What a suite came to: a result for each task and set of prompts, tasks without data, and why others failed."""

    suite: str
    results: list[TaskResult] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class _Encoder:
    """Encodes each set of clips once, however many tasks ask about it."""

    model: AudioTextModel
    windows: str
    bad_share: float
    progress: bool
    done: dict[str, EncodedSet] = field(default_factory=dict)

    def __call__(self, clips: EvaluationSet, place: str) -> EncodedSet:
        key = f"{place} {clips.manifest_sha256}"
        if key not in self.done:
            self.done[key] = encode_set(self.model, clips, self.windows, self.bad_share, self.progress)
        return self.done[key]


def run_suite(
    model: AudioTextModel,
    suite: str = "environment",
    *,
    data: str | Path = "data",
    places: Mapping[str, str | Path] | None = None,
    prompts: Sequence[str] = (),
    templates: Sequence[str] = (),
    windows: str = "mean",
    bad_share: float = BAD_SHARE,
    cache: ShardCache | None = None,
    progress: bool = True,
) -> SuiteResult:
    """Runs every task whose corpus is there. Clips and labels are encoded once for all folds and sets of prompts.

    Args:
        suite: of `conf/zero_shot/suites.yaml`, or a single task of `tasks.yaml`.
        data: the folder with a folder for each corpus, and in it one for each split, as `atr prepare` writes them.
        places: other folders or URLs of such splits, by corpus or task.
        prompts: sets of `conf/zero_shot/prompts.yaml`; the suite's own when empty.
        templates: prompts of your own, an ensemble, which make one more set; alone they take the place of the suite's.
        windows: as of `AudioTextModel.encode_audio`.
        bad_share: the largest share of a task's clips that may be unusable.
        cache: for remote shards.
        progress: shows bars on a terminal (stderr).

    Raises:
        UsageError: no such suite, place, set of prompts or windows; a template without `{label}`.
    """
    chosen = find_suite(suite)
    sets = find_prompts(prompts or ([] if templates else [chosen.prompts]), templates)
    own = dict(places or {})
    known = {name for task in find_tasks().values() for name in (task.name, task.corpus)}
    if unknown := [name for name in own if name not in known]:
        raise UsageError(f"a place is given for {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    encoder = _Encoder(model, windows, bad_share, progress)
    result = SuiteResult(suite)
    for task in chosen.tasks:
        given = own.get(task.name, own.get(task.corpus))
        place = str(given if given is not None else Path(data) / task.corpus)
        if given is None and not any((Path(place) / split).exists() for split in task.splits):
            result.missing.append(Missing(task, place, advice(task, place)))
            continue
        try:
            clips = read_set(_splits(task, place), find_corpus(task.corpus).CARD.name, cache=cache)
            result.results += _classify(encoder, clips, task, sets, place)
        except DataError as error:
            result.failed[task.name] = str(error)
    return result


def classify_set(
    model: AudioTextModel,
    clips: EvaluationSet,
    task: Task,
    prompts: Prompts,
    *,
    windows: str = "mean",
    bad_share: float = BAD_SHARE,
    progress: bool = True,
) -> list[TaskResult]:
    """Classifies labelled clips of any origin: a result for each set of prompts.

    Args:
        task: e.g. `Task(name="own", title="My sounds", labels=("rain", "wind"))`; without labels those of the clips.
        prompts: as `find_prompts` gives them.
        windows, bad_share, progress: see `run_suite`.

    Raises:
        DataError: the labels do not fit the task, too many clips are bad, or an embedding is NaN.
        UsageError: there are no such windows.
    """
    return _classify(_Encoder(model, windows, bad_share, progress), clips, task, prompts, "")


def _classify(encoder: _Encoder, clips: EvaluationSet, task: Task, prompts: Prompts, place: str) -> list[TaskResult]:
    asked = ask(task, clips)
    encoded = encoder(asked.clips, place)
    question = replace(ask(task, encoded.clips), left_out=asked.left_out)  # what could not be encoded is gone
    model, results = encoder.model, []
    for name, one in prompts.items():
        templates = templates_for(task, one)
        text = encode_labels(model.clap, question.labels, templates, model.device)
        if not text.isfinite().all():
            raise DataError("the model gives NaN or infinite embeddings for labels; it is broken: no numbers are given")
        results.append(
            judge(
                task, question, encoded.audio, cosines(encoded.audio, text), dataset=clips.name, prompts=name,
                templates=templates, windows=encoded.windows, remarks=set_remarks(encoded), progress=encoder.progress,
            )
        )  # fmt: skip
    return results


def _splits(task: Task, place: str) -> list[str]:
    """The folders of a task's splits.

    Raises:
        DataError: one is not there.
    """
    found = [f"{place.rstrip('/')}/{split}" for split in task.splits]
    if not is_remote(place) and (absent := [one for one in found if not Path(one).exists()]):
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise DataError(
            f"{task.title}: {absent[0]}{more} is not there; the task needs {', '.join(task.splits)}: "
            f"{advice(task, place)}"
        )
    return found


def advice(task: Task, place: str) -> str:
    """What to get for a task, from where, and what to do with it."""
    card = find_corpus(task.corpus).CARD
    splits = "" if set(task.splits) == set(card.splits) else "".join(f" --split {split}" for split in task.splits)
    fetched = " --download" if card.downloads else ""
    return (
        f"get {card.name} from {card.homepage}"
        + (f", and {task.note}" if task.note else "")
        + f" (licence: {card.licence}), then: "
        f"atr prepare {task.corpus} --root raw/{task.corpus} --out {place}{splits}{fetched}"
    )
