"""Statistics: counted by hand on three clips, checked against the paper on the real tables."""

import csv
import json
import re
import tracemalloc
from collections import Counter

import pytest
from typer.testing import CliRunner

from atr.cli import app
from atr.datasets.manifest import write_manifest
from atr.datasets.statistics import describe, words_of
from atr.datasets.statistics_page import _histogram, _most_frequent
from atr.errors import DataError
from atr.types import Clip
from tests.conftest import SHARED

CLIPS = [
    Clip(id="a", audio="a", captions=["A dog barks in a park.", "The dog's bark"], duration=10.0),
    Clip(id="b", audio="b", captions=["a CAR passes by", "  "], start=2.5, end=8.0),
    Clip(id="c", audio="c"),
]


def invoke(*arguments):
    return CliRunner().invoke(app, ["stats", *map(str, arguments)], env={"COLUMNS": "200"})


def test_three_clips_by_hand():
    found = describe(CLIPS)
    assert found.numbers() == pytest.approx(
        {
            "clips": 3,
            "hours": 15.5 / 3600,
            "captions": 3,
            "captions_per_clip": 1.0,
            "mean_words": 13 / 3,
            "vocabulary": 11,
            "environment": 1 / 3,
            "mean_seconds": 7.75,
            "without_caption": 1,
            "without_duration": 1,
        }
    )
    assert found.words.most_common(1) == [("a", 3)]
    assert (found.lengths, found.durations) == (Counter({6: 1, 3: 1, 4: 1}), Counter({10: 1, 5: 1}))


def test_nothing_has_no_means():
    numbers = describe([]).numbers()
    assert numbers["clips"] == numbers["captions"] == numbers["vocabulary"] == 0
    assert [numbers[name] for name in ("hours", "mean_words", "environment", "mean_seconds")] == [None] * 4


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("It's 10 o’clock -- a high-pitched 'beep'!", ["it's", "10", "o'clock", "a", "high", "pitched", "beep"]),
        ("dogs' under_score", ["dogs", "under", "score"]),
        ("Ünïcode cafe\u0301, СОБАКА", ["ünïcode", "café", "собака"]),
        ("狗在叫，很大声", ["狗在叫", "很大声"]),
        ("… !", []),
    ],
)
def test_words(caption, words):
    assert words_of(caption) == words


def test_memory_does_not_grow_with_the_clips():
    def clips(count):
        texts = (f"a dog barks {n % 50} times" for n in range(count))
        return (Clip(id="x", audio="x", captions=[text], duration=float(len(text))) for text in texts)

    peaks = []
    for count in (500, 20_000):
        tracemalloc.start()
        assert describe(clips(count)).clips == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000  # bytes


@pytest.mark.skipif(not (SHARED / "data" / "captions").is_dir(), reason="needs the corpora's tables")
def test_the_papers_table_5():
    """Table 5: AudioCaps 57K, 8.8, 5K; Clotho 30K, 11.3, 4K."""

    def rows(corpus):
        for split in ("train", "val", "test"):
            with (SHARED / "data" / "captions" / corpus / f"{split}.csv").open(encoding="utf-8") as file:
                yield from csv.DictReader(file)

    audiocaps = describe(Clip(id="x", audio="x", captions=[row["caption"]]) for row in rows("audiocaps")).numbers()
    assert (audiocaps["captions"], round(audiocaps["mean_words"], 1), audiocaps["vocabulary"]) == (57_188, 8.8, 5122)
    numbers = [f"caption_{number}" for number in range(1, 6)]
    clotho = describe(Clip(id="x", audio="x", captions=[row[n] for n in numbers]) for row in rows("clotho")).numbers()
    assert (clotho["captions"], round(clotho["mean_words"], 1), clotho["vocabulary"]) == (29_645, 11.3, 4366)


def test_the_verb_prints_each_place(tmp_path, shards):
    write_manifest(CLIPS, tmp_path / "mine.jsonl")
    result = invoke(tmp_path / "mine.jsonl", shards, "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    mine, tones = rows[str(tmp_path / "mine.jsonl")], rows[str(shards)]
    assert (mine["clips"], mine["vocabulary"], mine["bad"]) == (3, 11, 0)
    assert (tones["clips"], tones["captions_per_clip"], tones["without_duration"]) == (16, 2.0, 0)
    assert tones["mean_seconds"] == pytest.approx(1.375)  # of the sounds in the shard, whose json does not tell
    table = invoke(tmp_path / "mine.jsonl", shards)
    assert table.exit_code == 0 and re.search(r"captions per clip +│ +\S+ │ +2\.00 │", table.stdout)
    assert re.search(r"environment +│ +33\.3% │", table.stdout)
    assert "1 of 3 clips have no caption" in table.stdout and "duration of 1 of 3 clips is not known" in table.stdout


def test_a_damaged_line_is_listed_and_the_others_count(tmp_path):
    path = tmp_path / "mine.jsonl"
    write_manifest(CLIPS, path)
    path.write_text(path.read_text() + '{"id": "d"}\n')
    result = invoke(path)
    assert result.exit_code == 0 and "1 entries cannot be read" in result.stdout
    assert f"{path}:4: needs audio, as text" in result.stdout
    assert json.loads(invoke(path, "--json").stdout)[str(path)]["bad"] == 1


def test_the_page_is_self_contained_and_escaped(tmp_path):
    path = tmp_path / "<b>.jsonl"
    write_manifest([*CLIPS, Clip(id="d", audio="d")], path)
    result = invoke(path, "--out", tmp_path / "new" / "page")
    assert result.exit_code == 0
    page = (tmp_path / "new" / "page" / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == 3 and "http" not in page and "<b>" not in page
    assert "<td>33.3%</td>" in page and "2 of 4 clips have no caption" in page
    assert [one.name for one in (tmp_path / "new" / "page").iterdir()] == ["index.html"]


def test_a_page_of_nothing(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    assert invoke(tmp_path / "empty.jsonl", "--out", tmp_path).exit_code == 0
    assert "nothing to draw" in (tmp_path / "index.html").read_text()


def test_pictures_of_odd_counts():
    for counts in (Counter({0: 1}), Counter({1: 1, 10**6: 1}), Counter({5: 10_000, 86_400: 1})):
        assert _histogram(counts, "s", "clips").startswith(b"\x89PNG")
    assert _most_frequent(Counter({"$x_y$": 1, "z" * 5000: 2, "狗": 1})).startswith(b"\x89PNG")


def test_errors_and_help(tmp_path):
    result = invoke(tmp_path / "gone.jsonl")
    assert result.exit_code == 1 and "gone.jsonl: cannot be read" in str(result.exception)
    assert "shard folder" in str(invoke(tmp_path / "gone").exception)
    assert "https://host/shards is remote; copy" in str(invoke("https://host/shards").exception)
    (tmp_path / "file").touch()
    (tmp_path / "empty.jsonl").touch()
    result = invoke(tmp_path / "empty.jsonl", "--out", tmp_path / "file")
    assert isinstance(result.exception, DataError) and "the page cannot be written" in str(result.exception)


def test_brackets_in_a_path_are_no_markup(tmp_path):
    folder = tmp_path / "[" / "old]"
    folder.mkdir(parents=True)
    write_manifest(CLIPS, folder / "a.jsonl")
    result = invoke(folder / "a.jsonl")
    assert result.exit_code == 0 and "[/old]" in re.sub(r"[\s│┃]", "", result.stdout)

    assert "atr stats data/audiocaps/train" in invoke("--help").stdout
