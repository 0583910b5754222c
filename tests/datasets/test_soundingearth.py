"""SoundingEarth from a fixture of the publisher's shape."""

import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw, find_corpus
from atr.types import BadSample, Clip
from tests.conftest import tone

corpus = find_corpus("soundingearth")


def test_splits(tmp_path):
    (tmp_path / "raw_audio" / "aporee_1").mkdir(parents=True)
    soundfile.write(tmp_path / "raw_audio" / "aporee_1" / "quay.mp3", tone(300), 16_000)
    (tmp_path / "metadata.csv").write_text(
        "key,long_key,mp3name,latitude,longitude,title,description\n"
        '11,aporee_1,quay.mp3,1.0,2.0,Quay,"waves, gulls\nand wind"\n'
        "12,aporee_2,b.mp3,,,B,\n17,aporee_3,c.mp3,,,C,\nx,aporee_4,,,,D,\n5\n"
    )
    raw = Raw(tmp_path, AudioFiles(tmp_path))
    assert list(corpus.read(raw, "train")) == [
        Clip(
            id="11", audio=str(tmp_path / "raw_audio" / "aporee_1" / "quay.mp3"), captions=["waves, gulls\nand wind"],
            split="train", title="Quay", source="aporee:aporee_1", dataset="SoundingEarth", licence=corpus.CARD.licence,
        ),
        BadSample(f"{tmp_path / 'metadata.csv'}:6", "has key 'x' and mp3name ''"),
        BadSample(f"{tmp_path / 'metadata.csv'}:7", "has 1 cells instead of 7"),
    ]  # fmt: skip
    tables_only = Raw(tmp_path, AudioFiles(None))
    assert [clip.id for clip in corpus.read(tables_only, "test")] == ["12"]
    assert [(clip.id, clip.captions) for clip in corpus.read(tables_only, "validation")] == [("17", [])]
