"""AudioSetCaps: 6.1 million clips of AudioSet, VGGSound and YouTube-8M, captioned by models through questions."""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from atr.datasets.corpus import Card, Download, MissingSplit, Raw
from atr.datasets.tables import Row, Seen, read_table
from atr.types import BadSample, Clip

_FILES = "https://huggingface.co/datasets/baijs/AudioSetCaps/resolve/main/Dataset"
_CAPTIONS = {
    "audioset": "AudioSetCaps_caption.csv",
    "vggsound": "VGGSound_AudioSetCaps_caption.csv",
    "youtube8m": "YouTube-8M_AudioSetCaps_caption.csv",
}
_QUESTIONS = {
    "audioset": "AudioSetCaps_Qwen-Audio_Q&A.csv",
    "vggsound": "VGGSound_Qwen-Audio_Q&A.csv",
    "youtube8m": "YouTube-8M_Qwen-Audio_Q&A.csv",
}
CARD = Card(
    name="AudioSetCaps",
    homepage="https://huggingface.co/datasets/baijs/AudioSetCaps",
    licence="captions CC BY 4.0; the sound belongs to the videos' authors",
    splits=("audioset", "vggsound", "youtube8m"),
    captions="1, and three questions with answers where the Q&A tables are there",
    citation="Bai et al.: AudioSetCaps: An Enriched Audio-Caption Dataset using Automated Generation Pipeline with "
    "Large Audio and Language Models. IEEE/ACM TASLP 2025, arXiv:2411.18953",
    faults=(
        "the clips of AudioSet come without times; those of a video that is whole on disk cannot be cut",
        "the captions are a model's; they are not checked by people",
        "the publisher counts 1 910 920 + 182 189 + 4 023 990 captions and 5 736 072 + 592 680 + 12 086 037 questions: "
        "not all have partners",
    ),
    unverified="columns and ids, after reference, the publisher's two example clips and a reader that shows one id of "
    "each table; the third part of ids such as 9eUrEyAR3xk_84_10 is taken for the length, as the clips have ten "
    "seconds; the form of the Q&A tables is a guess from the example in the publisher's README",
    downloads=tuple(
        Download(url=f"{_FILES}/{name.replace('&', '%26')}", path=name)
        for name in (*_CAPTIONS.values(), *_QUESTIONS.values())
    ),
)
LENGTH = 10.0  # s
_ID = re.compile(r"Y??([A-Za-z0-9_-]{11})(?:_(\d+(?:\.\d+)?)(?:_(\d+(?:\.\d+)?))?)?")
_ANSWER = re.compile(r"\banswer:", re.IGNORECASE)


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """A caption table and, where it is there, its Q&A table, from the root or its folder `Dataset`."""
    path = _table(raw.root, _CAPTIONS[split])
    if path is None:
        raise MissingSplit(f"{raw.root / _CAPTIONS[split]} is missing: AudioSetCaps' captions of this split")
    questions = _Questions()
    if table := _table(raw.root, _QUESTIONS[split]):
        yield from questions.fill(table)
    seen = Seen()
    for row in read_table(path, ["id", "caption"]):
        if isinstance(row, BadSample):
            yield row
            continue
        place = _place(row["id"])
        if place is None:
            yield BadSample(row.where, f"{row['id']!r} is no YouTube id with or without times")
            continue
        video, start, end = place
        name = _name(video, start)
        if seen(name):
            yield BadSample(row.where, f"{name!r} came before")
            continue
        answered = questions.take(name)
        if not row["caption"]:
            yield BadSample(row.where, "has no caption")
            continue
        clip = Clip(
            id=name, audio="", captions=[row["caption"]], questions=answered, split=split, source=f"youtube:{video}",
            dataset=CARD.name, licence=CARD.licence,
        )  # fmt: skip
        yield raw.audio.video(clip, video, start, end)
    yield from questions.left()


def _table(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / "Dataset" / name) if path.is_file()), None)


def _place(text: str) -> tuple[str, float | None, float | None] | None:
    """Video, start and end in it (s): `Yabc`, `abc_000883`, `abc_84_10`, `abc_30_40`.

    A third part that lies ten seconds after the start is the end, any other the length.
    """
    match = _ID.fullmatch(text)
    if not match:
        return None
    if match[2] is None:
        return match[1], None, None
    start = float(match[2])
    last = LENGTH if match[3] is None else float(match[3])
    return match[1], start, last if last == start + LENGTH else start + last


def _name(video: str, start: float | None) -> str:
    return video if start is None else f"{video}_{start:g}"


class _Questions:
    """Questions and answers by clip, in a temporary database: there are up to 12 million."""

    def __init__(self) -> None:
        self._rows = sqlite3.connect("")
        self._rows.execute("CREATE TABLE questions (clip TEXT, place TEXT, question TEXT, answer TEXT)")
        self._rows.execute("CREATE TABLE taken (clip TEXT PRIMARY KEY) WITHOUT ROWID")

    def fill(self, path: Path) -> Iterator[BadSample]:
        """Reads a table; the rows that hold no question are named."""
        for row in read_table(path, ["id"]):
            if isinstance(row, BadSample):
                yield replace(row, clips=0)
                continue
            place, answered = _place(row["id"]), _answered(row)
            if place is None:
                yield BadSample(row.where, f"{row['id']!r} is no YouTube id with or without times", clips=0)
            elif not answered:
                yield BadSample(row.where, "holds no question with an answer", clips=0)
            elif any("\ufffd" in part for pair in answered for part in pair):
                yield BadSample(row.where, "holds bytes that are no UTF-8", clips=0)
            else:
                found = [(_name(place[0], place[1]), row.where, *pair) for pair in answered]
                self._rows.executemany("INSERT INTO questions VALUES (?, ?, ?, ?)", found)
        self._rows.execute("CREATE INDEX by_clip ON questions (clip)")

    def take(self, clip: str) -> list[tuple[str, str]]:
        """Those of a clip, in the table's order."""
        found = self._rows.execute("SELECT question, answer FROM questions WHERE clip = ? ORDER BY rowid", (clip,))
        answered = found.fetchall()
        if answered:
            self._rows.execute("INSERT OR IGNORE INTO taken VALUES (?)", (clip,))
        return answered

    def left(self) -> Iterator[BadSample]:
        """The clips that nobody took."""
        query = (
            "SELECT clip, min(place), count(*) FROM questions "
            "WHERE clip NOT IN (SELECT clip FROM taken) GROUP BY clip ORDER BY min(rowid)"
        )
        for clip, place, count in self._rows.execute(query):
            yield BadSample(place, f"{clip!r} has {count} questions, but no row in the table of captions")


def _answered(row: Row) -> list[tuple[str, str]]:
    """From columns `question` and `answer`, or from all the columns beside `id`, each `Question: … Answer: …`."""
    columns = {name.lower(): cell for name, cell in row.cells.items()}
    if "question" in columns and "answer" in columns:
        return [(columns["question"], columns["answer"])] if columns["question"] and columns["answer"] else []
    return [pair for name, cell in row.cells.items() if name != "id" and (pair := _pair(cell))]


def _pair(cell: str) -> tuple[str, str] | None:
    match = _ANSWER.search(cell)
    if not match:
        return None
    question, answer = (part.strip("* \n") for part in (cell[: match.start()], cell[match.end() :]))
    name, colon, question = question.partition(":")
    question = question.strip("* \n")
    return (question, answer) if colon and name.lower() == "question" and question and answer else None
