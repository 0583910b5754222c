"""Folders of sounds with texts beside them, and folders per class."""

import json

import pytest
import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw, find_corpus
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import tone

corpus = find_corpus("folder")


def sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(300, seconds=0.1), 16_000)


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path, AudioFiles(tmp_path))


def test_texts_and_jsons(tmp_path, raw):
    for name in ("x/a.wav", "x/b.FLAC", "c.wav", ".hidden.wav", ".git/d.wav"):
        sound(tmp_path / name)
    (tmp_path / "x" / "a.txt").write_text("\ufeff one \n\ntwo\n")
    (tmp_path / "x" / "b.json").write_text(
        json.dumps({"text": "three", "tag": ["dog"], "title": "B", "id": "no", "q": 1})
    )
    assert corpus.splits(raw) == ("all",)
    c, a, b = corpus.read(raw, "all")
    assert c == Clip(id="c", audio=str(tmp_path / "c.wav"), split="all")
    assert a == Clip(id="x/a", audio=str(tmp_path / "x" / "a.wav"), captions=["one", "two"], split="all")
    assert (b.id, b.captions, b.labels, b.title) == ("x/b", ["three"], ["dog"], "B")


def test_fields_of_a_clip(tmp_path, raw):
    sound(tmp_path / "a.wav")
    (tmp_path / "a.json").write_text(json.dumps({"captions": ["x"], "labels": ["y"], "licence": "CC0", "start": 0.05}))
    (tmp_path / "a.txt").write_text("x\nz\n")
    (clip,) = corpus.read(raw, "all")
    assert (clip.captions, clip.labels, clip.licence, clip.start) == (["x", "z"], ["y"], "CC0", 0.05)


def test_splits(tmp_path, raw):
    for name in ("train/a.wav", "val/in/b.wav", "fold2/c.wav", "more/d.wav"):
        sound(tmp_path / name)
    (tmp_path / "train" / "a.txt").write_text("hello")
    assert corpus.splits(raw) == ("fold2", "train", "val", "all")
    assert {split: [clip.id for clip in corpus.read(raw, split)] for split in corpus.splits(raw)} == {
        "fold2": ["fold2/c"], "train": ["train/a"], "val": ["val/in/b"], "all": ["more/d"]
    }  # fmt: skip
    (tmp_path / "more" / "d.wav").unlink()
    assert corpus.splits(raw) == ("fold2", "train", "val")


def test_a_folder_per_class(tmp_path, raw):
    for name in ("train/dog/a.wav", "train/cat/b.wav", "train/c.wav", "bird/d.wav", "e.wav"):
        sound(tmp_path / name)
    (tmp_path / "train" / "dog" / "LICENSE.txt").write_text("of no sound")
    assert {clip.id: clip.labels for clip in corpus.read(raw, "train")} == {
        "train/c": [], "train/cat/b": ["cat"], "train/dog/a": ["dog"]
    }  # fmt: skip
    assert {clip.id: clip.labels for clip in corpus.read(raw, "all")} == {"e": [], "bird/d": ["bird"]}
    (tmp_path / "e.txt").write_text("now there is a text")
    assert all(clip.labels == [] for clip in corpus.read(raw, "train"))


def test_bad_texts(tmp_path, raw):
    for name in ("a.wav", "b.wav", "c.wav", "d.wav", "e.flac", "e.wav"):
        sound(tmp_path / name)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("[]")
    (tmp_path / "d.json").write_text('{"duration": "long"}')
    a, b, c, d, e, again = corpus.read(raw, "all")
    assert a.key == str(tmp_path / "a.txt") and a.reason.startswith("is not utf-8 (")
    assert b.key == str(tmp_path / "b.json") and b.reason.startswith("is no JSON (")
    assert c == BadSample(str(tmp_path / "c.json"), "is a list, not an object")
    assert d.reason == "duration is 'long'; allowed is seconds, 0 or more, or null"
    assert e.id == "e" and again == BadSample("e.wav", "has the same name as e.flac; keep one of them")
    latin = Raw(tmp_path, AudioFiles(tmp_path), {}, "latin-1")
    assert next(corpus.read(latin, "all")).captions == ["café"]


def test_links_that_lead_back_give_each_sound_once(tmp_path, raw):
    sound(tmp_path / "x" / "a.wav")
    for name in ("one", "two", "three"):
        (tmp_path / "x" / name).symlink_to(tmp_path)
    assert [clip.id for clip in corpus.read(raw, "all")] == ["x/a"]


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="is no folder; give the one that the sounds are in"):
        corpus.splits(Raw(tmp_path / "no", AudioFiles(tmp_path)))
