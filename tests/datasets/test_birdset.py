"""BirdSet from tables of the publisher's shape."""

import pytest
import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw, find_corpus
from atr.types import BadSample, Clip
from tests.conftest import tone

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

corpus = find_corpus("birdset")


def test_parts(tmp_path):
    for name in ("XC12.ogg", "HSN_001_20150708_061805.ogg", "HSN_001_20150708_061805_000_005.ogg"):
        soundfile.write(tmp_path / name, tone(300), 32_000)
    tables = {
        "HSN_metadata_train": [
            {
                "filepath": "XC12.ogg",
                "ebird_code": "gcrfin",
                "license": "CC BY-NC",
                "start_time": None,
                "end_time": None,
            }
        ],
        "HSN_metadata_test": [
            {"filepath": "HSN_001_20150708_061805.ogg", "ebird_code": "herthr", "start_time": 0.25, "end_time": 0.5},
            {"filepath": "HSN_001_20150708_061805.ogg", "ebird_code": "herthr", "start_time": 1.0, "end_time": 0.5},
            {"filepath": None, "ebird_code": "herthr", "start_time": 1.0, "end_time": 2.0},
        ],
        "HSN_metadata_test_5s": [
            {"filepath": "HSN_001_20150708_061805_000_005.ogg", "ebird_code": None, "ebird_code_multilabel": ["a", "b"]}
        ],
        "XCM_metadata": [{"filepath": "XC99.ogg", "ebird_code": "x"}],
    }
    (tmp_path / "HSN").mkdir()
    for name, rows in tables.items():
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "HSN" / f"{name}.parquet")
    raw = Raw(tmp_path, AudioFiles(tmp_path))
    assert corpus.splits(raw) == ("HSN_test", "HSN_test_5s", "HSN_train", "XCM_train")
    assert list(corpus.read(raw, "HSN_train")) == [
        Clip(
            id="HSN/XC12", audio=str(tmp_path / "XC12.ogg"), labels=["gcrfin"], split="HSN_train",
            source="xeno-canto:12", dataset="BirdSet", licence="CC BY-NC",
        )
    ]  # fmt: skip
    where = f"{tmp_path / 'HSN' / 'HSN_metadata_test.parquet'}"
    test, *bad = corpus.read(raw, "HSN_test")
    assert (test.id, test.start, test.end) == ("HSN/HSN_001_20150708_061805_0.25_0.5", 0.25, 0.5)
    assert (test.labels, test.source) == (["herthr"], "birdset:HSN_001_20150708_061805")
    assert bad == [
        BadSample(f"{where}:row 2", "ends at 0.5 s, which is not after its start, 1 s"),
        BadSample(f"{where}:row 3", "has no filepath"),
    ]
    (five,) = corpus.read(raw, "HSN_test_5s")
    assert (five.labels, five.start, five.split) == (["a", "b"], None, "HSN_test_5s")
    assert list(corpus.read(raw, "XCM_train")) == [BadSample("XCM/XC99", f"no file 'XC99.ogg' below {tmp_path}")]
    with pytest.raises(MissingSplit, match="has no table of POW_train; those that are there: HSN_test, HSN_test_5s"):
        list(corpus.read(raw, "POW_train"))
