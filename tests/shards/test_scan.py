"""Damaged and hostile tars: what is whole is read, what is lost is named, nothing is taken that leads outside."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

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
    what = "holds only zeros" if rubbish == bytes(512) else "is damaged"
    assert f"(bytes {member.offset_data - 512} to " in lost[0].key
    assert lost[0].reason == f"the tar {what} there, after {before}" and lost[0].clips == 1


def test_a_tar_with_a_damaged_beginning_gives_the_rest(tmp_path, whole):
    content, held = whole
    (tmp_path / "broken.tar").write_bytes(b"\xff" * 512 + content[512:])
    found, lost = held_by(tmp_path / "broken.tar")
    assert {k: found[k] for k in list(held)[1:]} == {k: held[k] for k in list(held)[1:]}
    assert lost[0].reason == "the tar is damaged there, at its beginning"


def test_members_that_lead_outside_are_refused_one_by_one(tmp_path, clips):
    sound = b"RIFF"
    names = ["../x.wav", "/etc/x.wav", "a/../../x.wav", "..\\x.wav"]
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for name in [*names, "good.wav"]:
            info = tarfile.TarInfo(name)
            info.size = len(sound)
            tar.addfile(info, io.BytesIO(sound))
        for name, kind in [("soft.wav", tarfile.SYMTYPE), ("hard.wav", tarfile.LNKTYPE), ("dev.wav", tarfile.CHRTYPE)]:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    index = build_index(path)
    assert index.keys.tolist() == [b"good"]
    reasons = {one.key: one.reason for one in index.lost}
    assert all(reasons[name] == "refused: its name leads out of the tar's folder" for name in names)
    assert all(
        "it is a link, a device or a sparse file" in reasons[name] for name in ("soft.wav", "hard.wav", "dev.wav")
    )
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


def test_a_name_with_dots_is_a_sample(tmp_path, clips):
    sound = Path(clips[0].audio).read_bytes()
    foreign_tar(tmp_path / "0.tar", [("Yabc_30.000.wav", sound), ("Yabc_30.000.json", b'{"text": ["x"]}')])
    found, lost = held_by(tmp_path / "0.tar")
    assert found == {"Yabc_30.000": (sound, {"text": ["x"]})} and lost == []


def test_members_that_make_no_sample_are_named(tmp_path):
    foreign_tar(tmp_path / "0.tar", [("a.wav", b"RIFF"), ("b.aif", b"FORM"), ("b.txt", b"words")])
    _, lost = held_by(tmp_path / "0.tar")
    assert [(one.key[-2:], one.reason) for one in lost] == [(":b", "holds neither a sound nor a json, only .aif, .txt")]


def test_a_tail_of_zeros_is_no_end_mark(tmp_path, whole):
    """A preallocated file whose copy was interrupted."""
    content, held = whole
    content = content[:60_000] + bytes(200_000)
    (tmp_path / "0.tar").write_bytes(content)
    found, lost = held_by(tmp_path / "0.tar")
    assert 3 < len(found) < 10 and all(found[key] == held[key] for key in found if found[key][1])
    assert any("holds only zeros" in one.reason and one.clips > 10 for one in lost)


def test_bytes_cut_out_of_the_middle_cost_the_sample_they_are_missing_from(tmp_path, whole):
    content, held = whole
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        place = tar.getmember("note04.flac").offset_data + 300
    (tmp_path / "0.tar").write_bytes(content[:place] + content[place + 100 :])
    found, lost = held_by(tmp_path / "0.tar")
    assert "note04" not in found and any(one.key.endswith(":note04") for one in lost)
    whole_ones = [key for key in held if key not in ("note04", "note05")]
    assert {key: found[key] for key in whole_ones} == {key: held[key] for key in whole_ones}


def header(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "odd",
    [
        header("odd.wav", -512), header("../odd.wav", -512), header("odd.wav", 2**62), header("odd.wav", 2**80),
        header("@", 2**33, tarfile.GNUTYPE_LONGNAME), header("@", 2**40, tarfile.XHDTYPE),
        header("odd.wav", 512, tarfile.GNUTYPE_SPARSE), header("a\udce9.wav", 0),
    ],
    ids=["minus", "minus_outside", "huge", "beyond_int64", "long_name", "long_pax", "sparse", "latin1"],
)  # fmt: skip
def test_an_odd_header_costs_itself_only(tmp_path, whole, odd):
    content, held = whole
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        place = tar.getmember("note04.flac").offset_data - 512
    path = tmp_path / "0.tar"
    path.write_bytes(content[:place] + odd + content[place:])
    found, lost = held_by(path)
    rest = [key for key in held if key not in ("note03", "note04")]
    assert {key: found[key] for key in rest} == {key: held[key] for key in rest}
    assert lost or "a\\udce9" in found or "a\\xe9" in found


def test_an_index_of_another_tar_of_the_same_size_serves_no_wrong_sample(tmp_path, clips):
    sound = Path(clips[0].audio).read_bytes()
    members = [
        (f"n{n}.{s}", sound if s == "wav" else b'{"text": ["cap %d"]}' % n) for n in range(4) for s in ("wav", "json")
    ]
    foreign_tar(tmp_path / "0.tar", members)
    old = ShardSet([tmp_path])
    swapped = [*members[:2], *members[4:6], *members[2:4], *members[6:]]
    foreign_tar(tmp_path / "0.tar", swapped)
    again = ShardSet([tmp_path])  # first, last and size are the same, and so is the time
    for shards in (old, again):
        with pytest.raises(DataError, match=r"its \.json is not where the index of .*0\.tar says: the tar was changed"):
            shards.metadata(1)
    os.utime(tmp_path / "0.index.json", (1, 1))  # as after a pause: the index is older than the tar
    assert [ShardSet([tmp_path]).metadata(n)["text"] for n in range(4)] == [["cap 0"], ["cap 2"], ["cap 1"], ["cap 3"]]


@pytest.mark.parametrize(
    "change",
    [
        {"json_size": [2**45] * 16}, {"audio_offset": [-1] * 16}, {"suffix": [99] * 16}, {"audio_offset": 512},
        {"keys": ["same"] * 16}, {"keys": []}, {"frames": [1]}, {"lost": [["a"]]}, {"sample_rate": [2**70] * 16},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_an_index_that_cannot_be_right_is_made_again(shards, change):
    path = index_path(shards / "00000.tar")
    right = path.read_text()
    path.write_text(json.dumps(json.loads(right) | change))
    assert ShardSet([shards]).metadata(3)["id"] == "note03" and path.read_text() == right
    path.write_text("[" * 100_000)
    assert len(ShardSet([shards])) == 16


def test_one_unreadable_shard_of_several_is_counted_and_the_others_are_read(tmp_path, clips):
    write_shards(clips, tmp_path / "set", clips_per_shard=4)
    (tmp_path / "set" / "00001.tar").write_bytes(b"")
    (tmp_path / "set" / "00002.tar").unlink()
    (tmp_path / "set" / "00002.tar").symlink_to(tmp_path / "nowhere")
    shards = ShardSet([tmp_path / "set"])
    assert len(shards) == 8 and sum(one.clips for one in shards.lost) == 8
    reasons = {one.key: one.reason for one in shards.lost}
    assert "not a readable tar (0 bytes)" in reasons[f"{tmp_path}/set/00001.tar:(all)"]
    assert "cannot be read" in reasons[f"{tmp_path}/set/00002.tar:(all)"]


def test_the_same_shard_several_times_is_opened_once(shards):
    index_path(shards / "00000.tar").unlink()
    many = ShardSet([shards] * 8)
    assert len(many) == 128 and many.lost == []


def test_headers_are_read_without_the_sound_behind_them(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.wav", np.zeros(5_000_000, np.int16), 48_000)
    foreign_tar(tmp_path / "0.tar", [("long.wav", (tmp_path / "long.wav").read_bytes()), ("long.json", b"{}")])
    asked = []
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: asked.append(count) or read(fd, count, at))
    assert build_index(tmp_path / "0.tar").rows["frames"].tolist() == [5_000_000]
    assert sum(asked) < 2_500_000  # of 10 MB; among it the search behind the end mark
