"""AudioSetCaps from three-row fixtures of the publisher's shape."""

import csv
import tracemalloc

import pytest
import soundfile

from atr.datasets import audiosetcaps
from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import tone

YOUTUBE8M = """id,caption
_7bcdefghij_4_10,"A cello plays, then a bell."
ABCDEFGHIJK_84_10,A woman speaks.
YBCDEFGHIJK_30_40,A man sings.
"""
QUESTIONS = [
    ["id", "Q&A caption 1", "Q&A caption 2"],
    [
        "_7bcdefghij_4_10",
        "**Question: Describe this audio.** *Answer: A slow melody: strings.*",
        "Question: Is there speech?\nAnswer: No.",
    ],
    ["Y_7bcdefghij_4_10", "Question: Music? Answer: Yes.", ""],
    ["zzzzzzzzzzz_0_10", "Question: a? Answer: b", "Question: c? Answer: d"],
]


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "Dataset").mkdir()
    (tmp_path / "Dataset" / "YouTube-8M_AudioSetCaps_caption.csv").write_text(YOUTUBE8M)
    for name in ("_7bcdefghij_4_10", "ABCDEFGHIJK", "YYBCDEFGHIJK_30"):
        soundfile.write(tmp_path / f"{name}.wav", tone(200, 100 if name == "ABCDEFGHIJK" else 10, 1000), 1000)
    return Raw(tmp_path, AudioFiles(tmp_path))


def test_counts_and_the_first_clip(raw):
    path = raw.root / "YouTube-8M_Qwen-Audio_Q&A.csv"
    write(path, QUESTIONS)
    found = list(audiosetcaps.read(raw, "youtube8m"))
    assert found[0] == Clip(
        id="_7bcdefghij_4", audio=str(raw.root / "_7bcdefghij_4_10.wav"), captions=["A cello plays, then a bell."],
        split="youtube8m", source="youtube:_7bcdefghij", dataset="AudioSetCaps",
        questions=[
            ("Describe this audio.", "A slow melody: strings."), ("Is there speech?", "No."), ("Music?", "Yes."),
        ],
        licence="captions CC BY 4.0; the sound belongs to the videos' authors",
    )  # fmt: skip
    assert [(clip.id, clip.start, clip.end) for clip in found[1:3]] == [
        ("ABCDEFGHIJK_84", 84.0, 94.0), ("YBCDEFGHIJK_30", None, None),
    ]  # fmt: skip
    reason = "'zzzzzzzzzzz_0' has 2 questions, but no row in the table of captions"
    assert found[3:] == [BadSample(f"{path}:5", reason)]


def test_without_the_table_of_questions_there_are_none(raw):
    clips = list(audiosetcaps.read(raw, "youtube8m"))
    assert [clip.questions for clip in clips] == [[], [], []]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Y-bcdefghijk", ("-bcdefghijk", None, None)),
        ("-bcdefghijk", ("-bcdefghijk", None, None)),
        ("YBCDEFGHIJK", ("YBCDEFGHIJK", None, None)),  # an id of its own
        ("OxPnZzn1_L8_000883", ("OxPnZzn1_L8", 883.0, 893.0)),
        ("-bcdefghijk_84_10", ("-bcdefghijk", 84.0, 94.0)),
        ("-bcdefghijk_30_40", ("-bcdefghijk", 30.0, 40.0)),
        ("-bcdefghijk_0_10", ("-bcdefghijk", 0.0, 10.0)),
        ("Y_bcdefghij__30.0_7.5", ("_bcdefghij_", 30.0, 37.5)),
    ],
)
def test_ids(text, place):
    assert audiosetcaps._place(text) == place


def test_questions_in_columns_of_their_own(raw):
    rows = [
        ["id", "Question", "Answer"], ["ABCDEFGHIJK_84_10", "Who?", "A woman"], ["ABCDEFGHIJK_84_10", "How?", "Softly"],
    ]  # fmt: skip
    write(raw.root / "YouTube-8M_Qwen-Audio_Q&A.csv", rows)
    clips = list(audiosetcaps.read(raw, "youtube8m"))
    assert [clip.questions for clip in clips] == [[], [("Who?", "A woman"), ("How?", "Softly")], []]


def test_rows_that_give_no_clip_are_named(raw):
    questions = raw.root / "VGGSound_Qwen-Audio_Q&A.csv"
    write(questions, [["id", "a"], ["short", "Question: a Answer: b"], ["ABCDEFGHIJK_000084", "no question"], ["x"]])
    with questions.open("ab") as file:
        file.write(b"ABCDEFGHIJK_000084,Question: \xff Answer: b\n")
    path = raw.root / "VGGSound_AudioSetCaps_caption.csv"
    path.write_text(
        "id,caption\nABCDEFGHIJK_000084,a\nYABCDEFGHIJK_84,b\nshort_000001,c\nABCDEFGHIJK_000001,\n"
        "zzzzzzzzzzz_000001,d\nABCDEFGHIJK_000002,e,f\n"
    )
    assert list(audiosetcaps.read(raw, "vggsound")) == [
        BadSample(f"{questions}:2", "'short' is no YouTube id with or without times", clips=0),
        BadSample(f"{questions}:3", "holds no question with an answer", clips=0),
        BadSample(f"{questions}:4", "has 1 cells instead of 2", clips=0),
        BadSample(f"{questions}:5", "holds bytes that are no UTF-8", clips=0),
        Clip(
            id="ABCDEFGHIJK_84", audio=str(raw.root / "ABCDEFGHIJK.wav"), captions=["a"], split="vggsound",
            start=84.0, end=94.0, source="youtube:ABCDEFGHIJK", dataset="AudioSetCaps",
            licence=audiosetcaps.CARD.licence,
        ),
        BadSample(f"{path}:3", "'ABCDEFGHIJK_84' came before"),
        BadSample(f"{path}:4", "'short_000001' is no YouTube id with or without times"),
        BadSample(f"{path}:5", "has no caption"),
        BadSample("zzzzzzzzzzz_1", f"no file for video 'zzzzzzzzzzz' below {raw.root}"),
        BadSample(f"{path}:7", "has 3 cells instead of 2"),
    ]  # fmt: skip


def test_another_table_is_refused(raw):
    with pytest.raises(MissingSplit, match=r"AudioSetCaps_caption\.csv is missing: AudioSetCaps' captions"):
        list(audiosetcaps.read(raw, "audioset"))
    (raw.root / "AudioSetCaps_caption.csv").write_text("name,caption\n")
    with pytest.raises(DataError, match="has no column 'id'; its columns are 'name', 'caption'"):
        list(audiosetcaps.read(raw, "audioset"))


def test_a_large_table_is_not_held(tmp_path):
    rows = 20_000
    with (tmp_path / "AudioSetCaps_caption.csv").open("w") as file:
        file.write("id,caption\n" + "".join(f"Y{number:011d},{'a dog barks ' * 20}\n" for number in range(rows)))
    with (tmp_path / "AudioSetCaps_Qwen-Audio_Q&A.csv").open("w") as file:
        file.write("id,question,answer\n" + "".join(f"Y{number:011d},{'who ' * 20},a dog\n" for number in range(rows)))
    tracemalloc.start()
    found = audiosetcaps.read(Raw(tmp_path, AudioFiles(None)), "audioset")
    assert sum(len(clip.questions) for clip in found) == rows
    assert tracemalloc.get_traced_memory()[1] < 3_000_000  # the tables have 7 MB
    tracemalloc.stop()
