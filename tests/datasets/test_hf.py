"""Hugging Face data sets on disk: the two layouts, sounds inside the tables, names of classes."""

import json
from pathlib import Path

import pytest
import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw, find_corpus
from atr.errors import DataError, UsageError
from tests.conftest import tone

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import ipc, parquet  # noqa: E402

corpus = find_corpus("hf")
FEATURES = {
    "audio": {"_type": "Audio"}, "caption": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["dog", "cat"], "_type": "ClassLabel"},
}  # fmt: skip


@pytest.fixture
def table(tmp_path):
    soundfile.write(tmp_path / "beep.flac", tone(300), 16_000)
    inside = (tmp_path / "beep.flac").read_bytes()
    audio = [
        {"bytes": inside, "path": "one.flac"},
        {"bytes": inside, "path": None},
        {"bytes": None, "path": "beep.flac"},
    ]
    rows = pyarrow.table({"audio": audio, "caption": ["a", "b", "c"], "label": [0, 1, None]})
    return rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})}), inside


def save(table, folder):
    """Writes what `datasets.save_to_disk` writes."""
    folder.mkdir(parents=True)
    with ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))


@pytest.mark.parametrize("layout", ["saved", "snapshot", "converted"])
def test_layouts(tmp_path, table, layout):
    table, inside = table
    root = tmp_path / "set"
    if layout == "saved":
        save(table, root / "train")
        save(table.slice(0, 1), root / "test")
        (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    else:
        names = ("data/train-00000-of-00001", "data/test-00000-of-00001")
        for name in names if layout == "snapshot" else ("default/train/0000", "default/test/0000"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table if "train" in name else table.slice(0, 1), root / f"{name}.parquet")
    (root / "beep.flac").write_bytes(inside)
    raw = Raw(root, AudioFiles(root))
    assert set(corpus.splits(raw)) == {"train", "test"}
    for _ in range(2):  # the second time the sounds are there
        one, two, three = corpus.read(raw, "train")
    assert (one.id, one.captions, one.labels, one.split) == ("one", ["a"], ["dog"], "train")
    assert one.audio.startswith(str(root / ".atr_audio" / "train" / "00000000-")) and one.audio.endswith(".flac")
    assert Path(one.audio).read_bytes() == inside
    assert (two.id, two.labels) == ("train-00000001", ["cat"]) and two.audio.endswith(".flac")
    assert (three.id, three.labels, three.audio) == ("beep", [], str(root / "beep.flac"))
    assert len(list((root / ".atr_audio" / "train").iterdir())) == 2
    assert [clip.split for clip in corpus.read(raw, "test")] == ["test"]


def test_one_saved_split_and_sounds_written_elsewhere(tmp_path, table):
    save(table[0].slice(0, 1), tmp_path / "set")
    raw = Raw(tmp_path / "set", AudioFiles(tmp_path / "sounds"))
    assert corpus.splits(raw) == ("all",)
    (clip,) = corpus.read(raw, "all")
    assert clip.audio.startswith(str(tmp_path / "sounds" / "all" / "00000000-"))
    (clip,) = corpus.read(Raw(tmp_path / "set", AudioFiles(None)), "all")
    assert clip.audio == "one.flac"


def test_sounds_that_cannot_be_written(tmp_path, table):
    save(table[0], tmp_path / "set")
    (tmp_path / "set" / ".atr_audio").write_text("a file is in the way")
    with pytest.raises(UsageError, match="cannot be written there"):
        list(corpus.read(Raw(tmp_path / "set", AudioFiles(tmp_path / "set")), "all"))


def test_what_is_no_data_set(tmp_path, table):
    raw = Raw(tmp_path, AudioFiles(tmp_path))
    with pytest.raises(DataError, match=r"neither dataset_dict\.json, state\.json nor \*\.parquet"):
        corpus.splits(raw)
    save(table[0], tmp_path / "set")
    raw = Raw(tmp_path / "set", AudioFiles(tmp_path / "set"), {"caption": "text"})
    with pytest.raises(DataError, match="has no column 'text'; its columns are 'audio', 'caption', 'label'"):
        list(corpus.read(raw, "all"))
    with pytest.raises(UsageError, match="has no split 'test'; there are: all"):
        list(corpus.read(raw, "test"))
    data = tmp_path / "set" / "data-00000-of-00001.arrow"
    data.write_bytes(data.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be read"):
        list(corpus.read(Raw(tmp_path / "set", AudioFiles(tmp_path / "set")), "all"))
    data.unlink()
    with pytest.raises(DataError, match=r"arrow is missing, but .*state\.json lists it"):
        corpus.splits(raw)


def test_configurations_are_not_mixed(tmp_path, table):
    for name in ("a/train-00000-of-00001", "b/train-00000-of-00001"):
        (tmp_path / name).parent.mkdir()
        parquet.write_table(table[0], tmp_path / f"{name}.parquet")
    with pytest.raises(UsageError, match=r"has the split 'train' in several folders \(also in b\)"):
        corpus.splits(Raw(tmp_path, AudioFiles(tmp_path)))
    assert corpus.splits(Raw(tmp_path / "a", AudioFiles(tmp_path))) == ("train",)
    (tmp_path / "a" / "train-00000-of-00001.parquet").rename(tmp_path / "a" / "my-own.parquet")
    assert corpus.splits(Raw(tmp_path / "a", AudioFiles(tmp_path))) == ("all",)


def test_what_datasets_itself_saves(tmp_path, table):
    datasets = pytest.importorskip("datasets")
    stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    labels = datasets.Sequence(datasets.ClassLabel(names=["x", "y"]))
    rows = {"audio": [{"bytes": table[1], "path": "q.flac"}], "label": [[1, 0]]}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features({"audio": stored, "label": labels}))
    made = made.cast_column("audio", datasets.Audio(decode=False))  # to encode would need torchcodec
    datasets.DatasetDict({"dev": made}).save_to_disk(tmp_path / "set")
    raw = Raw(tmp_path / "set", AudioFiles(tmp_path / "set"))
    (clip,) = corpus.read(raw, "dev")
    assert (clip.id, clip.labels, clip.split) == ("q", ["y", "x"], "dev")
