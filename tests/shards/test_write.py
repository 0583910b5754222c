"""The shard writer: deterministic, whole or not at all, readable by WebDataset, nothing dropped silently."""

import errno
import fcntl
import io
import json
import multiprocessing
import os
import signal
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset

from atr.errors import DataError
from atr.shards import encode, write
from atr.shards.index import build_index, index_path, load_index
from atr.shards.read import ShardSet
from atr.shards.write import shard_key, write_shard, write_shards
from atr.types import Clip
from tests.conftest import make_clips, tone


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def first_sound(tar):
    """The first sample's sound: `(frames, channels)` and its rate."""
    sample = next(iter(webdataset.WebDataset(str(tar), shardshuffle=False)))
    return soundfile.read(io.BytesIO(sample["flac"]), dtype="float32", always_2d=True)


@pytest.mark.parametrize("codec", ["keep", "flac", "wav", "ogg", "opus"])
def test_the_same_clips_in_another_order_by_more_workers_give_the_same_bytes(tmp_path, clips, codec):
    bad = [Clip(id=f"note{n:02d}x", audio=str(tmp_path / f"gone{n}.wav")) for n in (1, 5, 6, 11)]
    one = write_shards([*clips, *bad], tmp_path / "a", codec=codec, clips_per_shard=5, workers=1)
    two = write_shards([*bad, *clips[::-1]], tmp_path / "b", codec=codec, clips_per_shard=5, workers=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [tar.name for tar in one.shards] == [f"0000{n}.tar" for n in range(4)]
    assert two == replace(one, shards=[tmp_path / "b" / tar.name for tar in one.shards])
    assert (two.clips, [one.key for one in two.rejected]) == (16, ["note01x", "note05x", "note06x", "note11x"])


def test_a_rejected_clip_moves_no_other(tmp_path, clips):
    write_shards(clips, tmp_path / "all", codec="flac", clips_per_shard=4)
    for clip in (clips[2], *clips[8:12]):
        Path(clip.audio).unlink()
    result = write_shards(clips, tmp_path / "some", codec="flac", clips_per_shard=4, workers=2)
    assert [tar.name for tar in result.shards] == ["00000.tar", "00001.tar", "00003.tar"]
    assert len(result.rejected) == 5 and result.clips == 11
    before, after = contents(tmp_path / "all"), contents(tmp_path / "some")
    assert {name for name in before if before[name] != after.get(name)} == {
        "00000.tar", "00000.index.json", "00002.tar", "00002.index.json",
    }  # fmt: skip


def test_tar_headers_hold_nothing_of_the_machine(shards):
    with tarfile.open(shards / "00000.tar") as tar:
        found = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
    assert found == {(0, 0, 0, "bigdata", "bigdata", 0o444)}


def test_webdataset_reads_it(shards):
    samples = list(webdataset.WebDataset(str(shards / "00000.tar"), shardshuffle=False))
    assert len(samples) == 16
    meta = json.loads(samples[0]["json"])
    assert meta["text"] == ["a do note", "the do tone rings"] and meta["tag"] == ["low_note"]
    assert meta["source"] == "source0" and meta["title"] == "do"
    assert soundfile.read(io.BytesIO(samples[0]["flac"]))[1] == 16_000


def test_keep_copies_the_files_byte_for_byte(tmp_path, clips):
    write_shards(clips[:1], tmp_path / "kept", codec="keep")
    sample = next(iter(webdataset.WebDataset(str(tmp_path / "kept" / "00000.tar"), shardshuffle=False)))
    assert sample["wav"] == (tmp_path / "sounds" / "note00.wav").read_bytes()


def test_the_sample_rate_is_changed_on_request(tmp_path, clips):
    write_shards(clips[:1], tmp_path / "low", codec="flac", sample_rate=8000)
    samples, rate = first_sound(tmp_path / "low" / "00000.tar")
    assert (rate, samples.shape) == (8000, (8000, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_rate": 8000}, "choose one of flac, ogg, opus, wav to change"),
        ({"codec": "mp3"}, "codec 'mp3'; allowed are keep, flac"),
        ({"codec": "opus", "sample_rate": 44_100}, "opus cannot store 44100 Hz"),
        ({"workers": 0}, "workers is 0; it must be 1 or more"),
        ({"clips_per_shard": 0}, "clips_per_shard is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(tmp_path, clips, settings, message):
    with pytest.raises(ValueError, match=message):
        write_shards(clips, tmp_path / "x", **settings)
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_stored_is_listed_with_its_reason(tmp_path):
    good = make_clips(tmp_path / "s", 2)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan, np.float32), 16_000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound")
    bad = [Clip(id=name, audio=str(tmp_path / f"{name}.wav")) for name in ("empty", "nan", "text", "missing")]
    bad += [replace(good[0], id=""), replace(good[0], id="surrogate", captions=["\ud800"])]
    result = write_shards([*good, *bad], tmp_path / "out", codec="flac")
    assert result.clips == 2
    reasons = {one.key: one.reason for one in result.rejected}
    assert set(reasons) == {clip.id for clip in bad}
    assert "no samples" in reasons["empty"] and "NaN" in reasons["nan"]
    assert "its id is empty" in reasons[""]
    assert "no Unicode" in reasons["surrogate"]
    again = write_shards([*good, *bad], tmp_path / "again", codec="flac", clips_per_shard=2, workers=2)
    assert again.rejected == result.rejected


def test_existing_shards_and_equal_ids_are_refused(tmp_path, shards, clips):
    with pytest.raises(DataError, match="already holds shards"):
        write_shards(clips, shards)
    for other in (clips[0], replace(clips[0], id="note 00"), replace(clips[0], id="note.00")):
        with pytest.raises(DataError, match="give the same key"):
            write_shards(
                [replace(clips[0], id="note_00") if " " in other.id or "." in other.id else clips[0], other],
                tmp_path / "twice",
            )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_and_leaves_no_shard(tmp_path, clips, monkeypatch, workers):
    def full(self, sample):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(webdataset.TarWriter, "write", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_shards(clips, tmp_path / "out", codec="flac", clips_per_shard=4, workers=workers)
    assert error.value.errno == errno.ENOSPC
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_size_the_system_refuses_stops_too(tmp_path, clips):
    def limited():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            write_shards(clips, tmp_path / "out", codec="wav", workers=1)
        except OSError as error:
            os._exit(error.errno)

    assert finished(fork(limited)) == errno.EFBIG
    assert list((tmp_path / "out").iterdir()) == []


def test_a_clip_that_ends_its_worker_is_named(tmp_path, clips, monkeypatch):
    def crash(clip, codec, sample_rate):
        if clip.id == "note06":
            os.kill(os.getpid(), signal.SIGKILL)
        return encode.encode_clip(clip, codec, sample_rate)

    monkeypatch.setattr(write, "encode_clip", crash)
    with pytest.raises(DataError, match=r"00001\.tar: clip 'note06' .* ended with status -9"):
        write_shards(clips, tmp_path / "out", codec="flac", clips_per_shard=4, workers=2)
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {
        f"0000{number}.{suffix}" for number in (0, 2, 3) for suffix in ("tar", "index.json")
    }


def fork(function):
    """Starts a function in a process group of its own."""

    def begin():
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        function()

    process = multiprocessing.get_context("fork").Process(target=begin)
    process.start()
    return process


def finished(process):
    process.join(20)
    return process.exitcode


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def is_free(folder):
    with (folder / write.LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.fixture
def many(clips):
    return [replace(clip, id=f"{clip.id}-{number:03d}") for number in range(150) for clip in clips]


def begin_to_write(many, folder, workers):
    """A process that writes, caught between its first and its last shard."""

    def work():
        write_shards(many, folder, codec="flac", clips_per_shard=120, workers=workers)

    process = fork(work)
    wait_until(lambda: list(folder.glob("*.tar")) and list(folder.glob(".*.part")))
    return process


def assert_whole(folder, shards):
    """Tars and indexes are whole, and not all are there."""
    tars = sorted(folder.glob("*.tar"))
    assert 0 < len(tars) < shards
    for tar in tars:
        assert load_index(tar) == build_index(tar)
        with tarfile.open(tar) as file:
            assert len(file.getmembers()) == 240


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_writer_leaves_whole_shards_only(tmp_path, many, workers):
    out = tmp_path / "out"
    process = begin_to_write(many, out, workers)
    os.killpg(process.pid, signal.SIGKILL)
    assert finished(process) == -signal.SIGKILL
    assert_whole(out, 20)
    (out / ".00019.part").touch()  # what is left by the kill itself depends on the moment
    with pytest.raises(DataError, match="already holds shards"):
        write_shards(many, out)
    assert not list(out.glob(".*"))
    for tar in out.glob("*.tar"):
        tar.unlink()
    (out / ".00003.part").touch()
    (out / ".mine").touch()
    assert write_shards(many[:4], out, codec="flac").clips == 4
    assert [path.name for path in out.glob(".*")] == [".mine"]


def test_workers_of_a_killed_parent_stop_by_themselves(tmp_path, many):
    process = begin_to_write(many, tmp_path / "out", 2)
    os.kill(process.pid, signal.SIGKILL)
    assert finished(process) == -signal.SIGKILL
    wait_until(lambda: is_free(tmp_path / "out"))
    assert_whole(tmp_path / "out", 20)
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [write.LOCK]


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_stops_at_once_and_keeps_whole_shards(tmp_path, many, workers, capfd):
    process = begin_to_write(many, tmp_path / "out", workers)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert finished(process) == 1
    assert time.monotonic() - began < 10  # and not until all is written
    assert_whole(tmp_path / "out", 20)
    assert not list((tmp_path / "out").glob(".*"))
    assert capfd.readouterr().err.count("Traceback") == 1  # the parent's: KeyboardInterrupt; the workers keep still


def test_ctrl_c_within_a_clip_is_heard_after_it_even_if_the_clip_is_rejected(tmp_path, clips, monkeypatch):
    heard = []

    def interrupted(clip, codec, sample_rate):
        os.kill(os.getpid(), signal.SIGINT)
        heard.append(clip.id)
        raise DataError("rejected")

    monkeypatch.setattr(write, "encode_clip", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_shard(clips, tmp_path / "a.tar", "flac")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == ["note00"] and not list(tmp_path.glob("*a.*"))


def test_two_writers_do_not_share_a_folder(tmp_path, clips):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / write.LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is writing shards into"):
            write_shards(clips, tmp_path / "out")
    assert write_shards(clips, tmp_path / "out").clips == 16


def test_a_file_system_without_locks_is_warned_of(tmp_path, clips, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="cannot be locked .*: let no other process write into it") as caught:
        assert write_shards(clips, tmp_path / "out").clips == 16
    assert caught[0].filename == __file__


def test_one_shard_by_itself(tmp_path, clips):
    steps = []
    result = write_shard(clips, tmp_path / "train.tar", "flac", on_clip=lambda: steps.append(1))
    assert (result.shards, result.clips, len(steps)) == ([tmp_path / "train.tar"], 16, 16)
    with pytest.raises(DataError, match="is there already"):
        write_shard(clips, tmp_path / "train.tar")
    assert write_shard([Clip(id="gone", audio="gone.wav")], tmp_path / "none.tar").shards == []
    assert {path.name for path in tmp_path.iterdir()} == {"sounds", "train.tar", index_path(result.shards[0]).name}


def test_clipped_samples_are_summed_over_shards(tmp_path):
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", np.linspace(0, 2, 101), 16_000, subtype="FLOAT")
    loud = [Clip(id=name, audio=str(tmp_path / f"{name}.wav")) for name in "abc"]
    assert write_shards(loud, tmp_path / "out", codec="flac", clips_per_shard=2, workers=2).clipped == 150


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bar_is_drawn_on_a_terminal_only(tmp_path, clips, monkeypatch, capsys, workers):
    write_shards(clips, tmp_path / "a", clips_per_shard=4, workers=workers)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal then
    write_shards(clips, tmp_path / "b", clips_per_shard=4, workers=workers, progress=False)
    assert capsys.readouterr() == ("", "")
    write_shards(clips, tmp_path / "c", clips_per_shard=4, workers=workers)
    shown = capsys.readouterr()
    assert "16/16" in shown.err and "clips/s" in shown.err and shown.out == ""


def test_keys_hold_nothing_that_ends_them_early():
    assert shard_key("a.b/c d-1_é") == "a_b_c_d-1_é"
    long = [shard_key("x" * 200 + end) for end in "ab"]
    assert long[0] != long[1] and all(len(key) == 95 and key.startswith("x" * 78 + "-") for key in long)


def test_stereo_stays_stereo(tmp_path):
    soundfile.write(tmp_path / "s.wav", tone(300, channels=2), 16_000)
    write_shards([Clip(id="s", audio=str(tmp_path / "s.wav"))], tmp_path / "out", codec="flac")
    assert first_sound(tmp_path / "out" / "00000.tar")[0].shape == (16_000, 2)


def test_a_stretch_of_a_file_is_cut_out(tmp_path, clips):
    wave = np.linspace(-0.5, 0.5, 48_000, dtype=np.float32)
    soundfile.write(tmp_path / "long.wav", wave, 16_000, subtype="FLOAT")
    clip = Clip(id="cut", audio=str(tmp_path / "long.wav"), start=1.0, end=1.5)
    write_shards([clip], tmp_path / "out", codec="flac")
    sample = next(iter(webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False)))
    stored, _ = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
    np.testing.assert_allclose(stored, wave[16_000:24_000], atol=1e-4)
    meta = json.loads(sample["json"])
    assert (meta["start"], meta["end"], meta["duration"], meta["sample_rate"]) == (1.0, 1.5, 0.5, 16_000)
    assert meta["file"] == "long.wav"
    assert "cannot cut" in write_shards([clip], tmp_path / "kept", codec="keep").rejected[0].reason


def test_ids_in_any_script_are_keys(tmp_path, clips):
    ids = ["狗叫", "下雨", "Vögel", "x" * 90 + "é"]
    named = [replace(clip, id=name) for clip, name in zip(clips, ids, strict=False)]
    assert write_shards(named, tmp_path / "any", codec="flac", progress=False).rejected == []
    shards = ShardSet([tmp_path / "any"])
    assert sorted(shards.metadata(n)["id"] for n in range(4)) == sorted(ids) and shards.lost == []
    assert sorted(shards.name(n).rpartition(":")[2] for n in range(4)) == sorted(ids)
    assert load_index(tmp_path / "any" / "00000.tar") == build_index(tmp_path / "any" / "00000.tar")
