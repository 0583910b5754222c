"""What a zero-shot suite consists of: `conf/zero_shot/` -> tasks, and which clips, labels and prompts each has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

from atr.config import conf_dir
from atr.errors import DataError, UsageError
from atr.evaluation.encode import check_templates
from atr.evaluation.sets import EvaluationSet
from atr.inference import some
from atr.pipeline.text import label_text

Kind = Literal["single", "any-of", "multi-label"]
OWN = "own"  # the prompt set of templates that the user gives


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classification without training; `conf/zero_shot/tasks.yaml` says what the fields mean."""

    name: str
    title: str
    kind: Kind = "single"
    corpus: str = ""
    splits: tuple[str, ...] = ()
    about: str = "sound"
    labels: tuple[str, ...] = ()
    classes: int | None = None
    level: Literal["", "first", "last"] = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"{self.name}: kind is {self.kind!r}; allowed: {', '.join(get_args(Kind))}")
        if self.level not in ("", "first", "last"):
            raise UsageError(f"{self.name}: level is {self.level!r}; allowed: first, last")
        if twice := [label for i, label in enumerate(self.labels) if label in self.labels[:i]]:
            raise UsageError(f"{self.name}: the label {twice[0]!r} is named twice")


@dataclass(frozen=True)
class Suite:
    """Tasks, and the prompts that belong to them."""

    name: str
    prompts: str
    tasks: list[Task]


def find_suite(name: str) -> Suite:
    """The suite of that name, or a task by itself, with the paper's prompts.

    Raises:
        UsageError: there is neither.
    """
    suites, tasks = _read("suites"), find_tasks()
    if name in tasks:
        return Suite(name, "paper", [tasks[name]])
    if name not in suites:
        raise UsageError(f"no suite is called {name!r}; suites: {', '.join(suites)}; tasks: {', '.join(tasks)}")
    return Suite(name, suites[name]["prompts"], [tasks[one] for one in suites[name]["tasks"]])


def find_tasks() -> dict[str, Task]:
    """All tasks by name."""
    found = {}
    for name, fields in _read("tasks").items():
        labels = fields.get("labels", [])
        labels = _read(f"labels/{labels}") if isinstance(labels, str) else labels
        found[name] = Task(name=name, **fields | {"splits": tuple(fields["splits"]), "labels": tuple(labels)})
    return found


def find_prompts(names: Sequence[str], templates: Sequence[str] = ()) -> dict[str, dict[str, list[str]]]:
    """Sets of prompts by name; own `templates` are a set called `own`.

    Raises:
        UsageError: there is no such set, or a template without `{label}`.
    """
    known = _read("prompts")
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"no set of prompts is called {unknown[0]!r}; there are: {', '.join(known)}")
    own = {OWN: {"sound": check_templates(templates)}} if templates else {}
    return {name: known[name] for name in names} | own


def templates_for(task: Task, prompts: Mapping[str, list[str]]) -> list[str]:
    """The templates that a set has for a task: by its name, by what it is about, or for any sound."""
    return prompts.get(task.name) or prompts.get(task.about) or prompts["sound"]


def _read(name: str) -> Any:
    path = conf_dir() / "zero_shot" / f"{name}.yaml"
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


@dataclass(frozen=True)
class Question:
    """What is asked of a model: which of the labels does each clip carry?

    Attributes:
        clips: those that are asked about.
        labels: C candidates, in the task's order, or sorted.
        carried: bool `(N, C)`.
        left_out: ids of the clips that carry none (any-of).
        empty: candidates that no clip carries (multi-label).
    """

    clips: EvaluationSet
    labels: list[str]
    carried: np.ndarray
    left_out: list[str]
    empty: list[str]


def ask(task: Task, clips: EvaluationSet) -> Question:
    """Puts a task to a set of clips.

    Raises:
        DataError: a clip has no label, several where it must have one, or one that is no candidate; candidates are
            fewer than two, not as many as the task has, carried by no clip, or the same in a prompt.
    """
    rows = {"first": slice(0, 1), "last": slice(-1, None), "": slice(None)}[task.level]
    labels = [one[rows] for one in clips.labels]
    ids, wanted = clips.ids, set(task.labels)
    if task.kind == "any-of" and wanted:
        labels = [[label for label in one if label in wanted] for one in labels]
        left_out = [name for name, one in zip(ids, labels, strict=True) if not one]
        kept = [row for row, one in enumerate(labels) if one]
        if not kept:
            raise DataError(f"{task.title}: none of {len(clips)} clips carries one of {', '.join(task.labels)}")
        clips, labels, ids = clips.of(kept), [labels[row] for row in kept], [ids[row] for row in kept]
    else:
        left_out = []
        _check_labels(task, ids, labels)
    found = {label for one in labels for label in one}
    names = list(task.labels) or sorted(found)
    empty = [name for name in names if name not in found]
    _check_candidates(task, names, empty, len(clips))
    number = {name: i for i, name in enumerate(names)}
    carried = np.zeros((len(labels), len(names)), bool)
    for row, one in enumerate(labels):
        carried[row, [number[label] for label in one]] = True
    return Question(clips, names, carried, left_out, empty)


def _check_labels(task: Task, ids: Sequence[str], labels: Sequence[Sequence[str]]) -> None:
    if none := [name for name, one in zip(ids, labels, strict=True) if not one]:
        raise DataError(f"{task.title}: {len(none)} of {len(ids)} clips have no label ({some(none)})")
    if task.kind == "single" and (more := [name for name, one in zip(ids, labels, strict=True) if len(one) > 1]):
        raise DataError(
            f"{task.title}: {len(more)} of {len(ids)} clips have several labels ({some(more)}), where each must have "
            "one; take kind any-of or multi-label"
        )
    if not task.labels:
        return
    wanted = set(task.labels)
    for name, one in zip(ids, labels, strict=True):
        if unknown := [label for label in one if label not in wanted]:
            shown = list(task.labels[:20])
            more_labels = f" and {len(task.labels) - len(shown)} more" if len(shown) < len(task.labels) else ""
            raise DataError(
                f"{task.title}: clip {name} has the label {unknown[0]!r}, which is none of the {len(task.labels)} "
                f"candidates: {', '.join(shown)}{more_labels}"
            )


def _check_candidates(task: Task, names: Sequence[str], empty: Sequence[str], clips: int) -> None:
    if len(names) < 2:
        raise DataError(f"{task.title}: {len(names)} label in {clips} clips; a classification needs two or more")
    if task.classes not in (None, len(names)):
        raise DataError(
            f"{task.title}: {len(names)} labels in {clips} clips, where the task has {task.classes}: numbers would not "
            "compare; complete the data, or evaluate them as a set of your own"
        )
    if empty and task.kind != "multi-label":
        raise DataError(
            f"{task.title}: no clip carries {empty[0]!r}"
            + (f" and {len(empty) - 1} more of the labels" if len(empty) > 1 else "")
            + "; complete the data, or mend the list of labels"
        )
    texts: dict[str, str] = {}
    for name in names:
        if (before := texts.setdefault(label_text(name), name)) != name:
            raise DataError(f"{task.title}: the labels {before!r} and {name!r} give the same prompt; make them one")
