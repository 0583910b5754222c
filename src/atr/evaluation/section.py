"""What a report shows of one set: pictures, maps, and clips to listen to."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from atr.errors import DataError
from atr.evaluation import pictures
from atr.evaluation.caption_numbers import read_written
from atr.evaluation.classified import Answer, Bars, Classified, MixedUp, bars, hardest, mixed_up, read_classified
from atr.evaluation.listen import Near, near, sounds, spread
from atr.evaluation.plane import project
from atr.evaluation.runs import Run
from atr.evaluation.saved import SavedSet
from atr.evaluation.side_by_side import Retrieval, Table, retrieval_rows
from atr.shards.progress import clip_bar

CAPTIONED = 20  # clips of a captioner
SEED = 0  # which ones
Picture = tuple[Run, str]  # a run's, as a data URI


@dataclass
class Card:
    """A clip to listen to.

    Attributes:
        sound: a data URI, empty where there is none.
        answers, nears, captions: of each run. references: the captions of the set.
    """

    name: str
    title: str
    label: str
    sound: str = ""
    answers: list[Answer | None] = field(default_factory=list)
    nears: list[Near | None] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    references: list[str] = field(default_factory=list)


@dataclass
class Task:
    """A table with what is drawn beside it.

    Attributes:
        measure: what the bars show.
        wrong: of each run: wrong answers and all; None where it has none.
    """

    table: Table
    retrieval: Retrieval
    confusions: list[Picture]
    bars: Bars
    measure: str
    mixed_up: list[tuple[Run, list[MixedUp]]]
    wrong: list[tuple[int, int] | None]
    hardest: list[Card]
    captioned: list[Card]


@dataclass
class Section:
    """One set.

    Attributes:
        maps: of each run with embeddings, and how it was made.
        coloured: labels with a colour in the maps, and all labels of the set.
        lost: why clips cannot be heard.
        remarks: of the results, and what could not be drawn.
    """

    name: str
    tasks: list[Task]
    maps: list[tuple[Run, str, str]]
    coloured: tuple[int, int]
    similarities: list[Picture]
    heard: list[Card]
    lost: list[str]
    remarks: list[str]


def make_section(name: str, tables: Sequence[Table], runs: Sequence[Run], most: int, progress: bool) -> Section:
    """Draws a set, and fetches the sound of its clips.

    Args:
        tables: of its tasks.
        most: clips in each of the two lists with players.
        progress: shows a bar on a terminal (stderr).

    Raises:
        DataError: embeddings or results are damaged.
    """
    sets = [run.saved(name) for run in runs]
    there = [one for one in sets if one is not None]
    titles = {clip: title for one in reversed(there) for clip, title in zip(one.ids, one.titles, strict=True)}
    shown = [[read_classified(one) if one else None for one in table.results] for table in tables]
    answering = sum(any(one and one.answers for one in row) for row in shown)
    tasks = [
        _task(table, row, runs, titles, max(1, most // max(1, answering)))
        for table, row in zip(tables, shown, strict=True)
    ]
    heard = _listen(sets, most)
    cards = [card for task in tasks for card in task.hardest + task.captioned] + heard
    ids = list(dict.fromkeys(card.name for card in cards))
    drawn = [(run, one) for run, one in zip(runs, sets, strict=True) if one is not None]
    labels = _single_labels(there[0]) if there else []
    colours = pictures.coloured(labels)
    with clip_bar(len(ids) + len(drawn), progress, "parts") as on_part:
        maps = [_map(run, one, colours, on_part) for run, one in drawn]
        played = sounds(there, ids, on_part)
    for card in cards:
        sound = played[card.name]
        card.sound = sound if isinstance(sound, str) else ""
    lost = list(dict.fromkeys(str(one) for one in played.values() if isinstance(one, DataError)))
    remarks = [
        f"{run.letter}, {table.task}: {line}" if len(runs) > 1 else f"{table.task}: {line}"
        for table in tables
        for run, one in zip(runs, table.results, strict=True)
        if one
        for line in one.remarks
    ]
    similarities = [(run, uri(pictures.similarity(one))) for run, one in drawn if len(one.text)]
    return Section(
        name, tasks, maps, (len(colours), len({label for label in labels if label})), similarities, heard, lost, remarks
    )  # fmt: skip


def uri(png: bytes) -> str:
    """A picture as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _task(
    table: Table, shown: Sequence[Classified | None], runs: Sequence[Run], titles: dict[str, str], most: int
) -> Task:
    drawn = [(run, one) for run, one in zip(runs, shown, strict=True) if one is not None]
    matrices = [(run, one.labels, one.confusion) for run, one in drawn if one.confusion is not None]
    answers = [one.answers if one else {} for one in shown]
    cards = []
    for name in hardest(answers, most):
        given = [one.get(name) for one in answers]
        label = next(one.label for one in given if one)
        cards.append(Card(name, titles.get(name, ""), label, answers=given))
    return Task(
        table,
        retrieval_rows(table, runs),
        [(run, uri(pictures.confusion(labels, counts))) for run, labels, counts in matrices],
        bars([one.per_class if one else {} for one in shown]),
        "recall" if matrices else "average precision",
        [(run, mixed_up(labels, counts)) for run, labels, counts in matrices if len(labels) > pictures.COUNTED],
        [(sum(not a.right for a in one.values()), len(one)) if one else None for one in answers],
        cards,
        _captioned(table, titles, min(CAPTIONED, 2 * most)),
    )


def _captioned(table: Table, titles: dict[str, str], most: int) -> list[Card]:
    """Clips drawn at random, with what each run writes about them, and their references."""
    written = [read_written(one) if one else {} for one in table.results]
    ids = sorted({name for run in written for name in run})
    chosen = sorted(np.random.default_rng(SEED).permutation(len(ids))[:most].tolist())
    cards = []
    for name in (ids[row] for row in chosen):
        own = [run.get(name) for run in written]
        references = next(one.references for one in own if one)
        captions = [one.caption if one else None for one in own]
        cards.append(Card(name, titles.get(name, ""), "", captions=captions, references=references))
    return cards


def _listen(sets: Sequence[SavedSet | None], most: int) -> list[Card]:
    """Clips spread over the set, with the captions that each run puts nearest."""
    captioned = [one if one is not None and len(one.captions) else None for one in sets]
    first = next((one for one in captioned if one is not None), None)
    if first is None:
        return []
    rows = {name: row for row, name in enumerate(first.ids)}
    places = [{name: row for row, name in enumerate(one.ids)} if one else {} for one in captioned]
    cards = []
    for name in spread(first.ids, most):
        nears = [near(one, at[name]) if one and name in at else None for one, at in zip(captioned, places, strict=True)]
        label = ", ".join(first.labels[rows[name]])
        cards.append(Card(name, first.titles[rows[name]], label, nears=nears))
    return cards


def _single_labels(saved: SavedSet) -> list[str]:
    """The label of each clip; empty where it has none or several."""
    return [one[0] if len(one) == 1 else "" for one in saved.labels]


def _map(run: Run, saved: SavedSet, colours: Sequence[str], on_part: Callable[[], None]) -> tuple[Run, str, str]:
    labels = _single_labels(saved)
    names, texts = label_texts(saved, labels, colours)
    plane = project(saved.audio, texts)
    picture = uri(pictures.scatter(plane, [labels[row] for row in plane.rows], names, colours))
    on_part()
    return run, picture, plane.method + ("; stars: the mean of the captions of a label's clips" if names else "")


def label_texts(saved: SavedSet, labels: Sequence[str], wanted: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The mean embedding of the distinct captions of the clips of each label that has captions.

    Args:
        labels: of each clip.
        wanted: the labels that are asked for.

    Returns:
        Labels, and their vectors, `(m, D)`.
    """
    columns: dict[str, dict[str, int]] = {label: {} for label in wanted}  # label -> caption -> its column
    for column, clip in enumerate(saved.clip_of_text.tolist()):
        if (label := labels[clip]) in columns:
            columns[label].setdefault(saved.captions[column], column)
    means = {label: saved.text[list(one.values())].mean(axis=0) for label, one in columns.items() if one}
    return list(means), np.array(list(means.values()), np.float32).reshape(len(means), saved.text.shape[1])
