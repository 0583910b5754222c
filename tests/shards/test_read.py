"""Index and reader: own shards, tars from elsewhere, and what is wrong with a folder."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from atr.errors import DataError
from atr.shards.find import find_shards
from atr.shards.index import AUDIO_SUFFIXES, build_index, index_path, load_index
from atr.shards.read import ShardSet
from atr.shards.write import write_shards


def foreign_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_any_sample_by_its_number(shards, tmp_path):
    both = ShardSet([shards, shards])
    assert len(both) == 32
    assert both.metadata(17)["id"] == "note01" and both.name(17).endswith("00000.tar:note01")
    with tarfile.open(shards / "00000.tar") as tar:
        assert both.audio(2) == tar.extractfile("note02.flac").read()


def test_the_index_knows_rate_channels_and_frames(shards):
    index = load_index(shards / "00000.tar")
    first = index.rows[0]
    assert (first["sample_rate"], first["channels"], first["frames"]) == (16_000, 1, 16_000)
    assert index.key(0) == "note00" and AUDIO_SUFFIXES[first["suffix"]] == "flac"
    assert index == build_index(shards / "00000.tar")


def test_a_tar_without_index_gets_one_and_a_changed_tar_a_new_one(shards, clips):
    path = index_path(shards / "00000.tar")
    stored = path.read_text()
    path.unlink()
    load_index(shards / "00000.tar")
    assert path.read_text() == stored
    foreign_tar(shards / "00000.tar", [("x.json", b"{}"), ("x.wav", b"RIFF")])
    assert load_index(shards / "00000.tar").keys.tolist() == [b"x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_read_with_a_warning(shards):
    index_path(shards / "00000.tar").unlink()
    shards.chmod(0o500)
    with pytest.warns(UserWarning, match="cannot be stored"):
        assert len(ShardSet([shards])) == 16
    shards.chmod(0o700)


def test_laions_layout_is_read_as_it_is(tmp_path, clips):
    sound = Path(clips[0].audio).read_bytes()
    members = [("0.flac", sound), ("0.json", b'{"text": "one caption", "tag": ["dog"], "original_data": {}}')]
    foreign_tar(tmp_path / "0.tar", members)
    (tmp_path / "sizes.json").write_text('{"0.tar": 1}')
    shards = ShardSet([tmp_path])
    assert len(shards) == 1 and shards.metadata(0)["text"] == "one caption" and shards.audio(0) == sound


def test_a_pickled_set_opens_its_files_again(shards):
    one = ShardSet([shards])
    one.audio(0)
    assert pickle.loads(pickle.dumps(one)).audio(0) == one.audio(0)


def test_a_missing_folder_names_those_beside_it(shards):
    with pytest.raises(DataError, match=r"fold9 does not exist; beside it there are: .*shards"):
        find_shards(shards.parent / "fold9")
    for number in range(30):
        (shards.parent / f"other{number:02d}").mkdir()
    with pytest.raises(DataError, match=r"there are: shards, other00, .*, other08 and 22 more$"):
        find_shards(shards.parent / "shard")
    with pytest.raises(DataError, match="nowhere is not there either"):
        find_shards(shards.parent / "nowhere" / "fold9")


def test_an_empty_folder_and_no_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.tar"):
        ShardSet([tmp_path])
    with pytest.raises(DataError, match="no shard folder given"):
        ShardSet([])


def test_a_tar_that_is_none_is_refused(tmp_path):
    (tmp_path / "text.tar").write_text("this is not a tar")
    with pytest.raises(DataError, match=r"text\.tar: not a readable tar"):
        build_index(tmp_path / "text.tar")
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.tar: not a readable tar \(0 bytes\); write or copy this shard again"):
        ShardSet([tmp_path / "empty.tar"])
    foreign_tar(tmp_path / "other.tar", [("readme.txt", b"hello")])
    with pytest.raises(DataError, match="no sample in it"):
        build_index(tmp_path / "other.tar")


def test_json_that_is_no_object_is_named(tmp_path):
    foreign_tar(tmp_path / "0.tar", [("a.json", b"[1]"), ("b.json", b"{broken"), ("c.wav", b"RIFF")])
    shards = ShardSet([tmp_path])
    with pytest.raises(DataError, match="its json is a list"):
        shards.metadata(0)
    with pytest.raises(DataError, match="its json cannot be read"):
        shards.metadata(1)
    assert shards.metadata(2) == {}


def test_the_index_is_json_of_plain_values(shards):
    stored = json.loads(index_path(shards / "00000.tar").read_text())
    assert stored["format"] == 2 and len(stored["sha256"]) == 64


def test_a_tar_rewritten_at_equal_size_gets_a_new_index(tmp_path, clips):
    sound = Path(clips[0].audio).read_bytes()
    for name in ("one", "two"):
        foreign_tar(tmp_path / "0.tar", [(f"{name}.wav", sound), (f"{name}.json", b"{}")])
        assert load_index(tmp_path / "0.tar").keys.tolist() == [name.encode()]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 1'])
def test_an_index_that_is_no_index_is_made_again(shards, content):
    expected = load_index(shards / "00000.tar")
    index_path(shards / "00000.tar").write_text(content)
    assert load_index(shards / "00000.tar") == expected


def test_a_sample_that_stands_twice_is_lost_and_no_other(tmp_path):
    foreign_tar(tmp_path / "0.tar", [("a.json", b"{}"), ("a.wav", b"RIFF"), ("a.json", b"{}")])
    with pytest.raises(DataError, match=r"a: its \.json stands in the tar twice"):
        build_index(tmp_path / "0.tar")
    foreign_tar(tmp_path / "1.tar", [("a.json", b"{}"), ("b.wav", b"RIFF"), ("b.json", b"{}"), ("a.json", b"{}")])
    index = build_index(tmp_path / "1.tar")
    assert index.keys.tolist() == [b"b"] and [one.key for one in index.lost] == ["a"]


def test_more_tars_than_open_files(tmp_path, clips, monkeypatch):
    monkeypatch.setattr("atr.shards.read.OPEN_FILES", 3)
    write_shards(clips, tmp_path / "many", clips_per_shard=1)
    many = ShardSet([tmp_path / "many"])
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    assert [many.metadata(number)["id"] for number in (*range(16), *range(16))] == [clip.id for clip in clips] * 2
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 3
