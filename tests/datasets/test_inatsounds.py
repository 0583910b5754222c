"""iNatSounds from a fixture of the publisher's shape."""

import json

import pytest
import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw, find_corpus
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import tone

corpus = find_corpus("inatsounds")


def test_a_split(tmp_path):
    (tmp_path / "val" / "00001_Aves").mkdir(parents=True)
    soundfile.write(tmp_path / "val" / "00001_Aves" / "77.wav", tone(300), 22_050)
    content = {
        "audio": [
            {"id": 5, "file_name": "val/00001_Aves/77.wav", "duration": 1.0, "license": 2},
            {"id": 6, "file_name": "val/00001_Aves/78.wav", "duration": 1.0, "license": 2},
            {"id": 7, "duration": 1.0},
            {"id": 8, "file_name": "val/00001_Aves/77.wav"},
        ],
        "categories": [{"id": 1, "name": "Turdus merula", "common_name": "Eurasian Blackbird"}],
        "annotations": [{"id": 1, "audio_id": 5, "category_id": 1}, {"id": 2, "audio_id": 6, "category_id": 1}],
        "licenses": [{"id": 2, "name": "CC BY-NC 4.0", "url": "http://x"}],
    }
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    raw = Raw(tmp_path, AudioFiles(tmp_path))
    assert list(corpus.read(raw, "validation")) == [
        Clip(
            id="val/00001_Aves/77", audio=str(tmp_path / "val" / "00001_Aves" / "77.wav"), split="validation",
            labels=["Eurasian Blackbird"], title="Turdus merula", duration=1.0, source="inatsounds:5",
            dataset="iNatSounds 2024", licence="CC BY-NC 4.0",
        ),
        BadSample("val/00001_Aves/78", f"no file 'val/00001_Aves/78.wav' below {tmp_path}"),
        BadSample(f"{path}: audio[2]", "has no file_name"),
        BadSample(f"{path}: audio[3]", "val/00001_Aves/77.wav has no annotation with a category of the list"),
    ]  # fmt: skip
    with pytest.raises(MissingSplit, match=r"train\.json is missing"):
        list(corpus.read(raw, "train"))
    path.write_text("{}")
    with pytest.raises(DataError, match="has no list 'audio' of objects"):
        list(corpus.read(raw, "validation"))


def test_downloads():
    assert [one.path for one in corpus.CARD.downloads if one.unpack] == [
        "train.json.tar.gz", "val.json.tar.gz", "test.json.tar.gz", "train.tar.gz", "val.tar.gz", "test.tar.gz"
    ]  # fmt: skip
