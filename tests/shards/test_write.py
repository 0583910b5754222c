"""The shard writer: deterministic, whole or not at all, readable by WebDataset, nothing dropped silently."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import webdataset

from atr.errors import DataError
from atr.shards.index import index_path
from atr.shards.write import shard_key, write_shards
from atr.types import Clip
from tests.conftest import make_clips, tone


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("codec", ["keep", "flac", "wav"])
def test_the_same_clips_in_another_order_give_the_same_bytes(tmp_path, clips, codec):
    write_shards(clips, tmp_path / "a", codec=codec, clips_per_shard=5)
    write_shards(clips[::-1], tmp_path / "b", codec=codec, clips_per_shard=5)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(list((tmp_path / "a").glob("*.tar"))) == 4


def test_ogg_decodes_to_the_same_samples(tmp_path, clips):
    decoded = []
    for name in "ab":
        write_shards(clips, tmp_path / name, codec="ogg")
        with tarfile.open(tmp_path / name / "00000.tar") as tar:
            members = [m for m in tar.getmembers() if m.name.endswith(".ogg")]
            decoded.append([soundfile.read(io.BytesIO(tar.extractfile(m).read()))[0] for m in members])
    assert all(np.array_equal(x, y) for x, y in zip(*decoded, strict=True))


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
    entry = json.loads(index_path(tmp_path / "low" / "00000.tar").read_text())["entries"][0]
    assert (entry["sample_rate"], entry["frames"], entry["channels"]) == (8000, 8000, 1)
    with pytest.raises(ValueError, match="choose flac, ogg or wav"):
        write_shards(clips, tmp_path / "x", codec="keep", sample_rate=8000)


def test_what_cannot_be_stored_is_listed_with_its_reason(tmp_path):
    good = make_clips(tmp_path / "s", 2)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan, np.float32), 16_000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound")
    bad = [Clip(id=name, audio=str(tmp_path / f"{name}.wav")) for name in ("empty", "nan", "text", "missing")]
    result = write_shards([*good, *bad], tmp_path / "out", codec="flac")
    assert result.clips == 2
    reasons = {one.key: one.reason for one in result.rejected}
    assert set(reasons) == {"empty", "nan", "text", "missing"}
    assert "no samples" in reasons["empty"] and "NaN" in reasons["nan"]


def test_existing_shards_and_equal_ids_are_refused(tmp_path, shards, clips):
    with pytest.raises(DataError, match="already holds shards"):
        write_shards(clips, shards)
    for other in (clips[0], replace(clips[0], id="note 00"), replace(clips[0], id="note.00")):
        with pytest.raises(DataError, match="give the same key"):
            write_shards(
                [replace(clips[0], id="note_00") if " " in other.id or "." in other.id else clips[0], other],
                tmp_path / "twice",
            )


def test_a_write_that_fails_leaves_no_shard(tmp_path, clips, monkeypatch):
    def full(self, sample):
        raise OSError("no space left on device")

    monkeypatch.setattr(webdataset.TarWriter, "write", full)
    with pytest.raises(OSError, match="no space"):
        write_shards(clips, tmp_path / "out", codec="flac")
    assert list((tmp_path / "out").glob("*.tar")) == []


def test_keys_hold_nothing_that_ends_them_early():
    assert shard_key("a.b/c d-1_é") == "a_b_c_d-1__"


def test_stereo_stays_stereo(tmp_path):
    soundfile.write(tmp_path / "s.wav", tone(300, channels=2), 16_000)
    write_shards([Clip(id="s", audio=str(tmp_path / "s.wav"))], tmp_path / "out", codec="flac")
    assert json.loads(index_path(tmp_path / "out" / "00000.tar").read_text())["entries"][0]["channels"] == 2


def test_a_stretch_of_a_file_is_cut_out(tmp_path, clips):
    wave = np.linspace(-0.5, 0.5, 48_000, dtype=np.float32)
    soundfile.write(tmp_path / "long.wav", wave, 16_000, subtype="FLOAT")
    clip = Clip(id="cut", audio=str(tmp_path / "long.wav"), start=1.0, end=1.5)
    write_shards([clip], tmp_path / "out", codec="flac")
    sample = next(iter(webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False)))
    stored, _ = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
    np.testing.assert_allclose(stored, wave[16_000:24_000], atol=1e-4)
    assert "cannot cut" in write_shards([clip], tmp_path / "kept", codec="keep").rejected[0].reason
