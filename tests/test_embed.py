"""`atr embed`: one file with everything, the same bits however often it was killed, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import atr
from atr import embed as module
from atr.collection import Collection, find_sounds, read_collection, write_collection
from atr.embed import embed, groups, summary
from atr.errors import DataError, UsageError
from atr.inference import AudioTextModel
from atr.shards.write import write_shards
from tests.conftest import ROOT, make_clips, tone

PARKED = """
import sys, time
from pathlib import Path
import torch
from atr import embed as module
torch.set_num_threads(2)
checkpoint, sounds, out, place = sys.argv[1:]
module.GROUP_CLIPS, write = 4, module.write_collection
def stuck(collection, path):
    if path.name == place:
        path.with_name("." + path.name + ".new").write_bytes(b"half a file")
        Path(out + ".parked").touch()
        time.sleep(600)
    write(collection, path)
module.write_collection = stuck
module.embed(checkpoint, [sounds], Path(out), "each")
"""


@pytest.fixture
def sounds(tmp_path):
    """Eighteen sounds of 0.2 to 2.75 s, two of them in a folder, and one file that is none."""
    folder = tmp_path / "sounds"
    (folder / "inner").mkdir(parents=True)
    for number in range(18):
        path = folder / ("inner" if number % 9 == 0 else "") / f"{number:02d}.wav"
        soundfile.write(path, tone(200 + 50 * number, 0.2 + 0.15 * number), 16_000)
    (folder / "09b.wav").write_text("no sound")
    (folder / "notes.txt").write_text("no sound either")
    return folder


def other_weights(checkpoint, path):
    """The same model with one number changed."""
    with safe_open(checkpoint.with_suffix(".safetensors"), framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["text_projection.0.bias"][0] += 0.5
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_the_file_holds_what_encode_audio_gives(trained, sounds, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    embed(trained, [sounds], out)
    found = read_collection(out)
    model = atr.load(trained)
    assert found.ids[:3].tolist() == ["01.wav", "02.wav", "03.wav"] and found.ids[-1] == "inner/09.wav"
    expected = model.encode_audio([sounds / name for name in found.ids])
    np.testing.assert_allclose(found.vectors, expected.numpy(), atol=1e-5)
    assert found.vectors.dtype == np.float32 and len(found.ids) == 18
    numbers = [int(Path(name).stem) for name in found.ids]
    np.testing.assert_allclose(found.durations, [0.2 + 0.15 * number for number in numbers], atol=1e-4)
    np.testing.assert_array_equal(found.ends, found.durations)
    (bad,) = found.bad
    assert bad.key == "09b.wav" and "cannot be decoded" in bad.reason
    assert found.about["weights"] == model.fingerprint() and found.about["windows"] == "mean"
    assert not out.with_name(out.name + ".part").exists()
    if suffix == "npz":  # plain arrays: nothing in it needs pickle
        with np.load(out, allow_pickle=False) as file:
            assert {name: file[name].dtype.kind for name in file} == {
                "ids": "U", "starts": "f", "ends": "f", "durations": "f", "vectors": "f", "facts": "U",
            }  # fmt: skip


def test_a_vector_for_each_window_has_its_times(trained, sounds, tmp_path):
    embed(trained, [sounds], tmp_path / "out.npz", windows="each")
    found = read_collection(tmp_path / "out.npz")
    rows = found.ids == "16.wav"  # 2.6 s in windows of 1 s
    np.testing.assert_allclose(found.starts[rows], [0.0, 1.0, 1.6], atol=1e-4)
    np.testing.assert_allclose(found.ends[rows], [1.0, 2.0, 2.6], atol=1e-4)
    samples, rate = soundfile.read(sounds / "16.wav", dtype="float32")
    expected = atr.load(trained).encode_audio([(samples[s : s + 16_000], rate) for s in (0, 16_000, 25_600)])
    np.testing.assert_allclose(found.vectors[rows], expected.numpy(), atol=1e-5)
    assert len(found.firsts()) == 18 and found.ids[found.firsts()].tolist() == list(dict.fromkeys(found.ids))


def test_killed_and_continued_gives_the_same_bytes(trained, sounds, tmp_path, monkeypatch):
    out, part = tmp_path / "out.npz", tmp_path / "out.npz.part"
    command = [sys.executable, "-c", PARKED, str(trained), str(sounds), str(out), "000002.npz"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    parked = tmp_path / "out.npz.parked"
    while not parked.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists() and len(list(part.glob("0*.npz"))) == 2

    monkeypatch.setattr(module, "GROUP_CLIPS", 4)
    embed(trained, [sounds], tmp_path / "other.npz", "each")
    groups_encoded, encode = [], AudioTextModel.encode_sources

    def counted(self, sources, windows):
        groups_encoded.append(len(sources))
        return encode(self, sources, windows)

    monkeypatch.setattr(AudioTextModel, "encode_sources", counted)
    embed(trained, [sounds], out, "each")
    assert groups_encoded == [4, 4, 3]
    assert out.read_bytes() == (tmp_path / "other.npz").read_bytes()
    assert not part.exists()
    groups_encoded.clear()
    embed(trained, [sounds], out, "each")  # done already
    assert not groups_encoded


def test_other_weights_settings_and_sounds_are_refused(trained, sounds, tmp_path, monkeypatch):
    out = tmp_path / "out.npz"
    other = other_weights(trained, tmp_path / "other.safetensors")

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "join_collections", stopped)
        embed(trained, [sounds], out)
    for finished in (False, True):
        if finished:
            embed(trained.with_suffix(".safetensors"), [sounds], out)  # the same weights in another file go on
        with pytest.raises(UsageError, match=r"was made with weights '\w+' instead of '\w+'; remove it or choose"):
            embed(other, [sounds], out)
        with pytest.raises(UsageError, match="was made with windows 'mean' instead of 'max'"):
            embed(trained, [sounds], out, "max")
        with pytest.raises(UsageError, match="was made with other sounds"):
            embed(trained, [sounds / "inner"], out)


def test_shards_give_keys_and_the_same_vectors_as_their_files(trained, tmp_path):
    clips = make_clips(tmp_path / "sounds", 6)
    write_shards(clips, tmp_path / "shards", codec="flac", clips_per_shard=4)
    embed(trained, [tmp_path / "shards"], tmp_path / "shards.npz")
    found = read_collection(tmp_path / "shards.npz")
    assert found.ids.tolist() == [clip.id for clip in clips]
    expected = atr.load(trained).encode_audio([clip.audio for clip in clips])
    np.testing.assert_allclose(found.vectors, expected.numpy(), atol=1e-5)


def test_what_an_id_is(tmp_path):
    make_clips(tmp_path / "a", 2)
    make_clips(tmp_path / "b", 2)
    names = [item.name for item in find_sounds([tmp_path / "a", tmp_path / "b" / "note00.wav"])[0]]
    assert names == [
        str(tmp_path / "a" / "note00.wav"),
        str(tmp_path / "a" / "note01.wav"),
        str(tmp_path / "b/note00.wav"),
    ]
    assert [item.name for item in find_sounds([tmp_path / "a"])[0]] == ["note00.wav", "note01.wav"]
    with pytest.raises(UsageError, match="stands for two sounds"):
        find_sounds([tmp_path / "a", tmp_path / "a" / "note00.wav"])
    with pytest.raises(DataError, match="nothing: no such file or folder"):
        find_sounds([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no sound files and no shards; suffixes are flac"):
        find_sounds([tmp_path / "empty"])
    clips = make_clips(tmp_path / "c", 2)
    for name in ("x", "y"):  # the same keys in two tars
        write_shards(clips, tmp_path / name, codec="flac")
        (tmp_path / name / "00000.tar").rename(tmp_path / "x" / f"{name}.tar")
    names = [item.name for item in find_sounds([tmp_path / "x"])[0]]
    assert names == ["x.tar:note00", "x.tar:note01", "y.tar:note00", "y.tar:note01"]


def test_groups_are_cut_by_clips_and_bytes(monkeypatch):
    monkeypatch.setattr(module, "GROUP_CLIPS", 3)
    monkeypatch.setattr(module, "GROUP_BYTES", 10)
    items = [module.Item(str(size), lambda: None, size) for size in (1, 1, 1, 1, 8, 2, 50, 1)]
    assert [[item.size for item in group] for group in groups(items)] == [[1, 1, 1], [1, 8], [2], [50], [1]]


def test_what_is_no_collection_is_refused(tmp_path, trained, sounds):
    with pytest.raises(DataError, match=r"gone\.npz is not there; `atr embed"):
        read_collection(tmp_path / "gone.npz")
    np.savez(tmp_path / "pickled.npz", ids=np.array([{"a": 1}], dtype=object), facts=np.array("{}"))
    with pytest.raises(DataError, match="is no collection of embeddings"):
        read_collection(tmp_path / "pickled.npz")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="is no collection of embeddings"):
        read_collection(tmp_path / "text.parquet")
    column = np.zeros(2)
    write_collection(Collection(np.array(["a"]), column, column, column, np.zeros((2, 3), "f4")), tmp_path / "x.npz")
    with pytest.raises(DataError, match="its columns do not fit"):
        read_collection(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as file:
        file.writestr("ids.npy", b"\x93NUMPY")
    with pytest.raises(DataError, match="or damaged"):
        read_collection(tmp_path / "cut.npz")
    with pytest.raises(UsageError, match=r"its suffix must be one of \.npz, \.parquet"):
        embed(trained, [sounds], tmp_path / "out.csv")
    with pytest.raises(UsageError, match="its folder does not exist"):
        embed(trained, [sounds], tmp_path / "no" / "out.npz")
    with pytest.raises(DataError, match=r"none of 1 sounds can be embedded; the first is .*09b\.wav cannot be decoded"):
        embed(trained, [sounds / "09b.wav"], tmp_path / "out.npz")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, trained, sounds, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'parquet needs pyarrow: pip install "atr\[data\]"'):
        embed(trained, [sounds], tmp_path / "out.parquet")


def test_remarks_are_counted_and_kept(trained, tmp_path):
    (tmp_path / "sounds").mkdir()
    for number in range(3):
        soundfile.write(tmp_path / "sounds" / f"{number}.wav", tone(300, 0.5, channels=2), 16_000)
    done, left_out = embed(trained, [tmp_path / "sounds"], tmp_path / "out.npz")
    lines = summary(done, left_out, tmp_path / "out.npz")
    assert lines[0].startswith("3 clips, 0.0 min, 3 vectors of 32 numbers")
    assert lines[1:] == ["0.wav and 2 more: 2 channels mixed to mono"]
    assert read_collection(tmp_path / "out.npz").remarks == [(f"{n}.wav", "2 channels mixed to mono") for n in range(3)]


def test_fingerprints_follow_weights_and_front_end(trained, tmp_path):
    model, same = atr.load(trained), atr.load(trained.with_suffix(".safetensors"))
    assert model.fingerprint() == same.fingerprint()
    assert atr.load(other_weights(trained, tmp_path / "o.safetensors")).fingerprint() != model.fingerprint()
    with torch.no_grad():
        same.clap.mel.filterbank[3, 3] += 1
    assert same.fingerprint() != model.fingerprint()
    assert json.loads(json.dumps(model.fingerprint())) == model.fingerprint()
