"""The zero-shot tasks, suites and prompts of conf/, and what is asked of a set of clips."""

import csv
import json

import numpy as np
import pytest
import yaml

from atr.collection import Item
from atr.config import conf_dir
from atr.datasets import audioset, binauralmusic, esc10, gtzan
from atr.datasets.corpus import find_corpus
from atr.errors import DataError, UsageError
from atr.evaluation.sets import EvaluationSet
from atr.evaluation.tasks import Task, ask, find_prompts, find_suite, find_tasks, templates_for
from tests.conftest import SHARED

TASKS = find_tasks()
SUITES = yaml.safe_load((conf_dir() / "zero_shot" / "suites.yaml").read_text())
PROMPTS = yaml.safe_load((conf_dir() / "zero_shot" / "prompts.yaml").read_text())


def clips_of(labels):
    """A set of clips without sound that carry these labels."""
    items = [Item(f"clip{number}", lambda: None, 0) for number in range(len(labels))]
    blank = [[] for _ in labels]
    return EvaluationSet(
        "set", items, blank, labels, [""] * len(labels), ["all"] * len(labels), [], [], [*range(len(labels))]
    )


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_tasks_fit_their_corpora(task):
    assert task.splits and set(task.splits) <= set(find_corpus(task.corpus).CARD.splits) and task.title
    assert task.about in ("sound", "environment", "music", "instrument", "speech")
    assert task.labels or task.classes
    assert any(task.name in suite["tasks"] for suite in SUITES.values())


@pytest.mark.parametrize("name", SUITES)
def test_suites_are_made_of_tasks_and_prompts(name):
    suite = find_suite(name)
    assert [task.name for task in suite.tasks] == SUITES[name]["tasks"] and suite.prompts in PROMPTS
    assert name not in TASKS and len(set(SUITES[name]["tasks"])) == len(suite.tasks)


def test_all_is_all():
    assert {task.name for task in find_suite("all").tasks} == set(TASKS)
    assert [task.name for task in find_suite("environment").tasks] == [
        "audioset_environment", "tau2020_mobile", "urbansound8k", "gtzan",
    ]  # fmt: skip
    alone = find_suite("esc50")
    assert alone.tasks == [TASKS["esc50"]] and alone.prompts == "paper"


def test_prompts_have_a_place_for_the_label():
    names = {*TASKS, *(task.about for task in TASKS.values())}
    for name, prompts in PROMPTS.items():
        assert "sound" in prompts and set(prompts) <= names, name
        assert all(templates and all("{label}" in one for one in templates) for templates in prompts.values())


def test_the_papers_prompts_and_those_of_others():
    sets = find_prompts(["paper", "laion", "wavcaps", "audiosetcaps"], ["a {label}", "some {label}"])
    assert list(sets) == ["paper", "laion", "wavcaps", "audiosetcaps", "own"]
    found = {name: [templates_for(TASKS[task], prompts) for task in ("audioset_environment", "urbansound8k", "gtzan")]
             for name, prompts in sets.items()}  # fmt: skip
    own = ["a {label}", "some {label}"]
    assert found == {
        "paper": [["The sound in {label}"], ["The sound of {label}"], ["The sound of {label}"]],
        "laion": [["This is a sound of {label}."], ["This is a sound of {label}."], ["This is a {label} song."]],
        "wavcaps": [["{label} can be heard"], ["{label}"], ["{label} can be heard"]],
        "audiosetcaps": [
            ["The clip showcases {label}"],
            ["The clip showcases {label}"],
            ["{label} genre can be heard"],
        ],
        "own": [own, own, own],
    }


def test_labels_are_those_of_the_corpora():
    assert TASKS["gtzan"].labels == gtzan.GENRES and TASKS["esc10"].labels == esc10.LABELS
    assert TASKS["binauralmusic"].labels == binauralmusic.INSTRUMENTS
    assert len(TASKS["audioset"].labels) == 527 and set(TASKS["audioset_environment"].labels) < set(
        TASKS["audioset"].labels
    )


@pytest.mark.skipif(not (SHARED / "data" / "meta").is_dir(), reason="needs the publishers' tables")
def test_labels_are_those_of_the_publishers():
    meta = SHARED / "data" / "meta"
    with (meta / "class_labels_indices.csv").open() as file:
        assert TASKS["audioset"].labels == tuple(row["display_name"] for row in csv.DictReader(file))
    ontology = json.loads((meta / "audioset_ontology.json").read_text())
    assert list(TASKS["audioset_environment"].labels) == audioset.descendants(ontology, audioset.ENVIRONMENT)
    with (meta / "UrbanSound8K.csv").open() as file:
        assert TASKS["urbansound8k"].labels == tuple(sorted({row["class"] for row in csv.DictReader(file)}))
    with (meta / "esc50.csv").open() as file:
        assert len({row["category"] for row in csv.DictReader(file)}) == TASKS["esc50"].classes
    with (meta / "vggsound_test.csv").open() as file:
        assert len({row[1] for row in csv.reader(file)}) == TASKS["vggsound"].classes


def test_single_labels():
    question = ask(Task(name="own", title="Own"), clips_of([["b"], ["a"], ["b"]]))
    assert question.labels == ["a", "b"] and question.carried.tolist() == [[False, True], [True, False], [False, True]]
    given = ask(Task(name="own", title="Own", labels=("b", "a")), clips_of([["b"], ["a"]]))
    assert given.labels == ["b", "a"] and given.carried.tolist() == np.eye(2, dtype=bool).tolist()


def test_any_of_leaves_out_clips_without_one_of_the_labels():
    task = Task(name="own", title="Own", kind="any-of", labels=("a", "b"))
    question = ask(task, clips_of([["a", "x"], ["x"], ["b", "a"], []]))
    assert question.left_out == ["clip1", "clip3"] and question.clips.ids == ["clip0", "clip2"]
    assert question.carried.tolist() == [[True, False], [True, True]]
    with pytest.raises(DataError, match="none of 1 clips carries one of a, b"):
        ask(task, clips_of([["x"]]))


def test_themes_and_classes_are_the_first_and_the_last_label():
    clips = clips_of([["Nature", "Rain"], ["City", "Bus"], ["City", "Tram"]])
    levels = {level: ask(Task(name="own", title="Own", level=level), clips).labels for level in ("first", "last")}
    assert levels == {"first": ["City", "Nature"], "last": ["Bus", "Rain", "Tram"]}


def test_tagging_names_the_labels_that_no_clip_carries():
    task = Task(name="own", title="Own", kind="multi-label", labels=("a", "b", "c"))
    question = ask(task, clips_of([["a", "b"], ["a"]]))
    assert question.empty == ["c"] and question.carried.tolist() == [[True, True, False], [True, False, False]]


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ({}, [["a"], [], ["b"]], r"1 of 3 clips have no label \(clip1\)"),
        ({}, [["a"], ["a", "b"], ["b"]], r"1 of 3 clips have several labels \(clip1\).*take kind any-of"),
        ({"labels": ("a", "b")}, [["a"], ["b"], ["c"]], "clip2 has the label 'c', which is none of the 2 cand.*: a, b"),
        ({"labels": ("a", "b", "c", "d")}, [["a"], ["b"]], "no clip carries 'c' and 1 more of the labels"),
        ({"labels": ("a", "b", "c"), "kind": "any-of"}, [["a"], ["b"]], "no clip carries 'c'; complete the data"),
        ({"classes": 3}, [["a"], ["b"]], "2 labels in 2 clips, where the task has 3: numbers would not compare"),
        ({}, [["a"], ["a"]], "1 label in 2 clips; a classification needs two"),
        ({"kind": "multi-label"}, [["a", "b"], []], r"1 of 2 clips have no label \(clip1\)"),
        ({"kind": "multi-label", "labels": ("a", "b")}, [["a"], ["x"]], "clip1 has the label 'x'"),
        ({}, [["dog_bark"], ["dog bark"], ["cat"]], "'dog bark' and 'dog_bark' give the same prompt"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(task, labels, message):
    with pytest.raises(DataError, match=f"^Own: .*{message}"):
        ask(Task(name="own", title="Own", **task), clips_of(labels))


def test_wrong_names_are_answered_with_the_right_ones():
    with pytest.raises(UsageError, match=r"no suite is called 'nature'; suites: environment, esc.*tasks: .*esc50"):
        find_suite("nature")
    with pytest.raises(UsageError, match=r"no set of prompts is called 'mine'; there are: paper, laion"):
        find_prompts(["mine"])
    with pytest.raises(UsageError, match=r"template 'a dog' has no \{label\}"):
        find_prompts([], ["a dog"])
    with pytest.raises(UsageError, match=r"kind is 'many'; allowed: single, any-of, multi-label"):
        Task(name="own", title="Own", kind="many")
    with pytest.raises(UsageError, match="the label 'a' is named twice"):
        Task(name="own", title="Own", labels=("a", "b", "a"))
    with pytest.raises(UsageError, match="level is 'middle'; allowed: first, last"):
        Task(name="own", title="Own", level="middle")
