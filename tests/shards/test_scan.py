"""Damaged and hostile tars: what is whole is read, what is lost is named, nothing is taken that leads outside."""

import io
import json
import pickle
import tarfile

import pytest

from atr.errors import DataError
from atr.shards.index import build_index, index_path, load_index
from atr.shards.read import ShardSet
from atr.shards.write import write_shards
from tests.shards.test_read import foreign_tar


@pytest.fixture
def whole(shards):
    """The bytes of a shard of 16 samples, and what each sample holds."""
    one = ShardSet([shards])
    held = {one.name(n).rpartition(":")[2]: (one.audio(n), one.metadata(n)) for n in range(len(one))}
    return (shards / "00000.tar").read_bytes(), held


def held_by(path):
    one = ShardSet([path])
    return {one.name(n).rpartition(":")[2]: (one.audio(n), one.metadata(n)) for n in range(len(one))}, one.lost


def test_a_tar_cut_off_anywhere_gives_its_whole_samples_and_names_the_cut_one(tmp_path, whole):
    content, held = whole
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(m.name.split(".")[0], m.offset_data + m.size) for m in tar]
    ends = {key: max(end for name, end in members if name == key) for key in held}
    for size in range(3000, len(content), 7919):
        path = tmp_path / f"{size}.tar"
        path.write_bytes(content[:size])
        expected = {key: held[key] for key in held if ends[key] <= size}
        if not expected:
            with pytest.raises(DataError, match=rf"{size}\.tar: no sample in it that can be read(.|\n)*note00: its"):
                ShardSet([path])
            continue
        found, lost = held_by(path)
        half = {k: v for k, v in found.items() if k not in expected}  # cut between a sample's two members
        assert {k: v for k, v in found.items() if k in expected} == expected
        assert all(not audio or not meta for audio, meta in half.values())
        if size < max(ends.values()):
            assert lost and all(f"{size}.tar:" in one.key for one in lost)


def test_the_sample_that_is_cut_off_is_named(tmp_path, whole):
    content, _ = whole
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        member = tar.getmember("note07.flac")
    (tmp_path / "cut.tar").write_bytes(content[: member.offset_data + 100])
    found, lost = held_by(tmp_path / "cut.tar")
    assert list(found) == [f"note{n:02d}" for n in range(7)]
    assert lost[0].key.endswith("cut.tar:note07")
    assert lost[0].reason == f"its .flac is cut off: 100 of {member.size} bytes are there"


def test_a_shard_cut_off_after_it_was_indexed_names_all_it_has_lost(shards):
    path = shards / "00000.tar"
    path.write_bytes(path.read_bytes()[:60_000])
    lost = {one.key.rpartition(":")[2] for one in ShardSet([shards]).lost}
    kept = {bytes(key).decode() for key in load_index(path).keys}
    assert {f"note{n:02d}" for n in range(16)} == lost | kept and len(lost) > 5
    assert {one.key.rpartition(":")[2] for one in ShardSet([shards]).lost} == lost  # the second opening knows it, too


@pytest.mark.parametrize("rubbish", [b"\xff" * 512, bytes(512)])
def test_after_a_damaged_header_reading_goes_on(tmp_path, whole, rubbish):
    content, held = whole
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        member = tar.getmember("note03.flac")
    broken = bytearray(content)
    broken[member.offset_data - 512 : member.offset_data] = rubbish
    (tmp_path / "broken.tar").write_bytes(broken)
    found, lost = held_by(tmp_path / "broken.tar")
    assert {k: v for k, v in found.items() if k != "note03"} == {k: v for k, v in held.items() if k != "note03"}
    assert found.get("note03", (b"", {}))[0] == b""
    before = "note02.json" if "note02" in lost[0].reason else "note03.json"
    assert f"damaged from byte {member.offset_data - 512}, after {before}, to byte" in lost[0].reason


def test_a_tar_with_a_damaged_beginning_gives_the_rest(tmp_path, whole):
    content, held = whole
    (tmp_path / "broken.tar").write_bytes(b"\xff" * 512 + content[512:])
    found, lost = held_by(tmp_path / "broken.tar")
    assert {k: found[k] for k in list(held)[1:]} == {k: held[k] for k in list(held)[1:]}
    assert "damaged from byte 0, after its beginning" in lost[0].reason


def test_members_that_lead_outside_are_refused_one_by_one(tmp_path, clips):
    sound = b"RIFF"
    names = ["../x.wav", "/etc/x.wav", "a/../../x.wav", "..\\x.wav"]
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for name in [*names, "good.wav"]:
            info = tarfile.TarInfo(name)
            info.size = len(sound)
            tar.addfile(info, io.BytesIO(sound))
        for kind, name in [(tarfile.SYMTYPE, "soft.wav"), (tarfile.LNKTYPE, "hard.wav"), (tarfile.CHRTYPE, "dev.wav")]:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    index = build_index(path)
    assert index.keys.tolist() == [b"good"]
    reasons = {one.key: one.reason for one in index.lost}
    assert all(reasons[name] == "refused: its name leads out of the tar's folder" for name in names)
    assert all("a link or a device" in reasons[name] for name in ("soft.wav", "hard.wav", "dev.wav"))
    assert not (tmp_path.parent / "x.wav").exists()


def test_pickled_members_are_never_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    members = [("a.wav", b"RIFF"), ("a.json", b"{}")]
    members += [(f"a.{suffix}", pickle.dumps(Trap())) for suffix in ("pyd", "pickle", "pkl", "pth", "npy")]
    foreign_tar(tmp_path / "0.tar", members)
    one = ShardSet([tmp_path])
    assert one.audio(0) == b"RIFF" and one.metadata(0) == {}
    assert not (tmp_path / "sprung").exists()


def test_sizes_json_tells_what_is_missing(tmp_path, clips):
    write_shards(clips, tmp_path / "set", clips_per_shard=8)
    (tmp_path / "set" / "sizes.json").write_text(json.dumps({"00000.tar": 8, "00001.tar": 9, "00002.tar": 8}))
    lost = {one.key: one.reason for one in ShardSet([tmp_path / "set"]).lost}
    assert lost == {
        str(tmp_path / "set" / "00001.tar"): "sizes.json counts 9 samples, 8 can be read",
        str(tmp_path / "set" / "00002.tar"): "sizes.json counts 8 samples, 0 can be read",
    }


def test_a_shard_that_shrinks_while_in_use_is_said_so(shards):
    one = ShardSet([shards])
    (shards / "00000.tar").write_bytes((shards / "00000.tar").read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"00000\.tar ends before byte \d+: it was cut off or changed while in use"):
        one.audio(15)


def test_the_index_of_a_damaged_tar_is_kept_with_its_losses(tmp_path, whole):
    (tmp_path / "cut.tar").write_bytes(whole[0][:30_000])
    first = load_index(tmp_path / "cut.tar")
    assert first.lost and index_path(tmp_path / "cut.tar").exists()
    assert load_index(tmp_path / "cut.tar") == first
