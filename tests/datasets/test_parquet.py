"""The user's own parquet tables."""

import sys

import pytest
import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw, find_corpus
from atr.errors import DataError, UsageError
from atr.types import BadSample, Clip
from tests.conftest import tone

corpus = find_corpus("parquet")


@pytest.fixture
def raw(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", tone(300), 16_000)
    columns = {
        "id": [1, 2, 3], "audio": ["a.wav", "b.wav", None], "captions": [["x", "y"], [], ["z"]],
        "start": [0.5, float("nan"), None], "end": [0.75, None, None], "split": ["s", "t", "s"],
    }  # fmt: skip
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet", row_group_size=1)
    return Raw(tmp_path, AudioFiles(tmp_path))


def test_rows(raw):
    assert corpus.splits(raw) == ("s", "t")
    assert list(corpus.read(raw, "s")) == [
        Clip(id="1", audio=str(raw.root / "a.wav"), captions=["x", "y"], split="s", start=0.5, end=0.75),
        BadSample(f"{raw.root / 't.parquet'}:row 3", "names no sound file (field audio)"),
    ]
    assert list(corpus.read(raw, "t")) == [Clip(id="2", audio=str(raw.root / "b.wav"), split="t")]


def test_a_damaged_file(raw):
    (raw.root / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read as parquet after row 0"):
        list(corpus.read(raw, "s"))


def test_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'pip install "atr\[data\]"'):
        list(corpus.read(Raw(tmp_path, AudioFiles(tmp_path)), "all"))
