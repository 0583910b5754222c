"""The user's own JSON lines."""

import pytest
import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw, find_corpus
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import tone

corpus = find_corpus("jsonl")


@pytest.fixture
def root(tmp_path):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", tone(300), 16_000)
    return tmp_path


def test_rows(root):
    (root / "t.jsonl").write_text(
        '\ufeff{"id": 7, "audio": "a.wav", "captions": ["one", " two ", ""], "labels": ["x"], "split": "train", '
        '"start": 0, "end": 0.5}\n\n{"audio": "b.wav", "caption": "three", "split": "val", "title": null}\n'
    )
    raw = Raw(root, AudioFiles(root))
    assert corpus.splits(raw) == ("train", "val")
    assert list(corpus.read(raw, "train")) == [
        Clip(
            id="7", audio=str(root / "a.wav"), captions=["one", "two"], labels=["x"], split="train", start=0.0, end=0.5
        )
    ]
    (second,) = corpus.read(raw, "val")
    assert (second.id, second.captions, second.title) == ("b", ["three"], "")


def test_bad_lines(root):
    (root / "t.jsonl").write_text(
        '{"audio": "a.wav"\n[1]\n{"audio": "a.wav", "caption": 5}\n{"audio": {"bytes": ""}}\n'
    )
    found = list(corpus.read(Raw(root, AudioFiles(root)), "all"))
    path = root / "t.jsonl"
    assert found[0].key == f"{path}:1" and found[0].reason.startswith("is no JSON (")
    assert found[1:] == [
        BadSample(f"{path}:2", "is a list, not an object"),
        BadSample(f"{path}:3", "has the caption 5, which is no text"),
        BadSample(f"{path}:4", "holds the sound itself, not the name of its file; read the folder as hf"),
    ]


def test_a_column_that_no_row_has(root):
    (root / "t.jsonl").write_text('{"audio": "a.wav", "text": "x"}\n')
    with pytest.raises(DataError, match=r"t\.jsonl: has no column 'txt'; its columns are 'audio', 'text'"):
        list(corpus.read(Raw(root, AudioFiles(root), {"caption": "txt"}), "all"))
    (clip,) = corpus.read(Raw(root, AudioFiles(root), {"captions": "text"}), "all")
    assert clip.captions == ["x"]
