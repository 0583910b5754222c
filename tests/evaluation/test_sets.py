"""Evaluation sets from shards, folders, tables and open sets; their embeddings; and what is refused."""

import csv
import io
import json
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import atr
from atr.errors import DataError, UsageError
from atr.evaluation.sets import encode_set, fold_names, read_set
from atr.shards.cache import ShardCache
from atr.shards.quarantine import FILE as QUARANTINE
from atr.shards.read import ShardSet
from atr.shards.write import write_shards
from tests.conftest import make_clips, tone


@pytest.fixture(scope="module")
def model(trained):
    return atr.load(trained)


@pytest.fixture
def notes(tmp_path):
    """A folder of sounds with a json beside each, and its clips under the ids that it gives them."""
    clips = [replace(clip, labels=["note", *clip.labels]) for clip in make_clips(tmp_path / "notes")]
    for clip in clips:
        meta = {"text": clip.captions, "tag": clip.labels, "title": clip.title}
        (tmp_path / "notes" / f"{clip.id}.json").write_text(json.dumps(meta))
    return tmp_path / "notes", clips


def shards_of(clips, folder, **settings):
    write_shards(clips, folder, codec="keep", progress=False, **settings)
    return folder


def write_table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_tar(path, samples):
    """A tar as LAION has them: numbers for keys, `text` and `tag` only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, (sound, meta) in samples.items():
            for name, content in ((f"{key}.wav", sound), (f"{key}.json", json.dumps(meta).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def wav(hertz):
    file = io.BytesIO()
    soundfile.write(file, tone(hertz), 16_000, format="wav")
    return file.getvalue()


def test_shards_a_folder_and_a_table_give_the_same_set(tmp_path, notes, model):
    folder, clips = notes
    rows = [[f"notes/{clip.id}.wav", clip.id, text, ";".join(clip.labels)] for clip in clips for text in clip.captions]
    table = write_table(tmp_path / "notes.csv", [["audio", "id", "caption", "label"], *rows])
    names = [[f"notes/{c.id}.wav", c.id, *c.captions, *c.labels] for c in clips]
    wide = write_table(tmp_path / "wide.csv", [["file", "key", "one", "two", "first", "second"], *names])
    columns = {"audio": "file", "id": "key", "caption": "one,two", "label": "first,second"}
    sets = [
        read_set([folder]),
        read_set([shards_of(clips[::-1], tmp_path / "shards", clips_per_shard=5)]),
        read_set([wide], columns=columns),
        read_set([wide], columns=columns, audio_dir=tmp_path),
    ]
    assert [one.name for one in sets] == ["notes", "shards", "wide", "wide"]
    for one in sets:
        assert one.ids == [clip.id for clip in clips] == sorted(one.ids)
        assert one.captions == [clip.captions for clip in clips] and one.labels == [clip.labels for clip in clips]
        assert one.manifest_sha256 == sets[0].manifest_sha256 and not one.bad and not one.left_out
    merged = read_set([table])  # a row for each caption
    assert merged.captions == sets[0].captions and merged.labels[0] == ["note;low_note"]
    assert merged.manifest_sha256 != sets[0].manifest_sha256
    embedded = [encode_set(model, one).audio for one in sets]
    for other in embedded[1:]:
        torch.testing.assert_close(other, embedded[0], atol=1e-5, rtol=0)
    assert (embedded[0][0] - embedded[0][1]).abs().max() > 1e-3


def test_the_hash_depends_on_ids_captions_and_labels_only(notes):
    folder, _ = notes
    one = read_set([folder])
    assert len(one.manifest_sha256) == 64 and one.manifest_sha256 == read_set([folder], "other name").manifest_sha256
    for column in ("captions", "labels"):
        changed = [*getattr(one, column)[:-1], ["else"]]
        assert replace(one, **{column: changed}).manifest_sha256 != one.manifest_sha256
    assert one.of(range(15)).manifest_sha256 != one.manifest_sha256
    assert one.of(range(16)).manifest_sha256 == one.manifest_sha256


def test_folds_are_named_after_the_places(tmp_path):
    clips = make_clips(tmp_path / "sounds")
    parts = {"fold1": clips[:6], "fold2": clips[6:]}
    for name, part in parts.items():
        shards_of(part, tmp_path / "shards" / name)
        for clip in part:
            path = tmp_path / "tree" / name / clip.labels[0] / f"{clip.id}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip.audio, path)
    folders = [tmp_path / "shards" / name for name in parts]
    expected = ["fold1"] * 6 + ["fold2"] * 10
    assert read_set(folders).folds == read_set(folders[::-1]).folds == read_set([ShardSet(folders)]).folds == expected
    tars = [shutil.copy(folder / "00000.tar", tmp_path / f"{folder.name}.tar") for folder in folders]
    assert read_set(tars).folds == expected
    tree = read_set([tmp_path / "tree"])
    assert tree.folds == expected and tree.ids[0] == "fold1/low_note/note00" and tree.labels[0] == ["low_note"]
    assert read_set([tmp_path / "tree"], splits=["fold2"]).folds == ["fold2"] * 10
    rows = [[f"sounds/{clip.id}.wav", clip.labels[0], name] for name, part in parts.items() for clip in part]
    table = write_table(tmp_path / "notes.csv", [["audio", "label", "split"], *rows])
    assert read_set([table]).folds == expected
    with pytest.raises(UsageError, match=r"no split 'fold3'; there are: fold1, fold2"):
        read_set([table], splits=["fold3"])


def test_folds_of_one_name_are_told_apart():
    assert fold_names(["/data/a/test", "/data/b/test", "/data/a/test"]) == {
        "/data/a/test": "a/test", "/data/b/test": "b/test",
    }  # fmt: skip
    assert fold_names(["pipe"]) == {"pipe": "pipe"}


def test_remote_shards_come_through_a_cache(tmp_path, notes, model):
    folder = shards_of(notes[1], tmp_path / "shards", clips_per_shard=4)
    far = read_set([f"file://{folder}"], cache=ShardCache(tmp_path / "cache", 1 << 20))
    near = read_set([folder])
    assert far.manifest_sha256 == near.manifest_sha256 and far.folds == ["shards"] * 16
    assert torch.equal(encode_set(model, far).audio, encode_set(model, near).audio)
    with pytest.raises(DataError, match="no cache"):
        read_set([f"file://{folder}"])


def test_sounds_are_read_as_they_lie_and_come_back_in_the_order_of_ids(tmp_path, notes, model, monkeypatch):
    folders = [shards_of(notes[1][8:], tmp_path / "a"), shards_of(notes[1][:8], tmp_path / "b")]
    opened = []
    original = ShardSet.open_audio
    monkeypatch.setattr(ShardSet, "open_audio", lambda *given: opened.append(given[1]) or original(*given))
    one = read_set(folders)
    assert one.ids == [clip.id for clip in notes[1]] and one.reading == [*range(8, 16), *range(8)]
    encoded = encode_set(model, one)
    assert opened == [*range(8), *range(8)]
    paths = [clip.audio for clip in notes[1]]
    torch.testing.assert_close(encoded.audio, model.encode_audio(paths), atol=1e-5, rtol=0)
    assert encoded.clips.of([3, 9]).reading == [1, 0]


def test_keys_that_begin_anew_in_each_tar_are_told_apart(tmp_path, model):
    """LAION's shards have no ids, and their keys are numbers."""
    write_tar(tmp_path / "laion" / "0.tar", {"0": (wav(300), {"text": "a low one", "tag": "low"})})
    write_tar(tmp_path / "laion" / "1.tar", {
        "0": (wav(900), {"text": ["a high one"], "tag": ["high"]}), "1": (wav(500), {"text": [], "tag": []}),
    })  # fmt: skip
    one = read_set([tmp_path / "laion"])
    assert one.ids == ["0.tar:0", "1", "1.tar:0"] and one.labels == [["low"], [], ["high"]]
    texts, owner = one.clip_of_text()
    assert texts == ["a low one", "a high one"] and owner.tolist() == [0, 2] and owner.dtype == torch.int64
    assert encode_set(model, one).audio.shape == (3, model.clap.dim)


def test_keys_that_stand_in_several_places_are_told_apart(tmp_path):
    for name, hertz in (("clotho", 300), ("audiocaps", 900)):
        write_tar(tmp_path / name / "test" / "0.tar", {
            "0": (wav(hertz), {"text": [name], "tag": []}), name: (wav(500), {"text": [name], "tag": []}),
        })  # fmt: skip
    both = read_set([tmp_path / "clotho" / "test", tmp_path / "audiocaps" / "test"])
    assert both.ids == ["audiocaps", "audiocaps/test/0", "clotho", "clotho/test/0"]
    assert both.captions == [["audiocaps"], ["audiocaps"], ["clotho"], ["clotho"]]


def test_rows_of_a_table_are_cut_out_of_their_files(tmp_path, model):
    soundfile.write(tmp_path / "long.wav", np.concatenate([tone(300), tone(2000)]), 16_000)
    long, rate = soundfile.read(tmp_path / "long.wav", dtype="float32")
    rows = [
        ["audio", "id", "label", "start", "end"], ["long.wav", "low", "low", 0, 1],
        ["long.wav", "high", "high", 1, ""], ["long.wav", "beyond", "high", 5, 6],
    ]  # fmt: skip
    one = read_set([write_table(tmp_path / "cut.csv", rows)])
    encoded = encode_set(model, one, bad_share=0.5)
    expected = model.encode_audio([(long[rate:], rate), (long[:rate], rate)])
    torch.testing.assert_close(encoded.audio, expected, atol=1e-5, rtol=0)
    assert encoded.clips.ids == ["high", "low"] and (expected[0] - expected[1]).abs().max() > 0.01
    assert "no samples in" in encoded.clips.bad[0].reason and "between 5 s and 6 s" in encoded.clips.bad[0].reason


def test_windows_and_remarks(tmp_path, model):
    folder = tmp_path / "sounds"
    make_clips(folder, 4)
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    one = read_set([folder])
    mean, first = encode_set(model, one), encode_set(model, one, windows="first")
    assert mean.windows == "mean" and not torch.equal(mean.audio, first.audio)
    assert any(line.startswith("silent") for line in mean.remarks)
    with pytest.raises(UsageError, match="windows is 'each'; allowed: mean"):
        encode_set(model, one, windows="each")


def test_bad_clips_are_listed_and_too_many_refused(tmp_path, notes, model):
    folder, clips = notes
    (folder / "note03.wav").write_bytes(b"no sound")
    (folder / "note05.json").write_text("{")
    one = read_set([folder])
    assert len(one) == 15 and [bad.key for bad in one.bad] == [str(folder / "note05.json")]
    encoded = encode_set(model, one, bad_share=0.2)
    assert len(encoded.clips) == len(encoded.audio) == 14 and "note03" not in encoded.clips.ids
    assert len(encoded.clips.bad) == 2 and encoded.clips.manifest_sha256 != one.manifest_sha256
    with pytest.raises(DataError, match=r"2 of 16 clips cannot be used, more than 1.00%[\s\S]*note03"):
        encode_set(model, one)
    damaged = shards_of(clips[:3] + clips[4:], tmp_path / "damaged")
    content = (damaged / "00000.tar").read_bytes()
    (damaged / "00000.tar").write_bytes(content.replace(b'"text"', b'"tex\xff"', 1))
    (damaged / "00000.index.json").unlink()
    assert sum(bad.clips for bad in read_set([damaged]).bad) == 1


def test_a_quarantine_leaves_clips_out(tmp_path, notes):
    folder = shards_of(notes[1], tmp_path / "shards")
    one = read_set([folder])
    name = ShardSet([folder]).name(2)
    line = {"shard": "00000.tar", "key": name.rpartition(":")[2], "reason": "silent"}
    (folder / QUARANTINE).write_text(json.dumps(line) + "\n")
    without = read_set([folder])
    assert without.left_out == [name] and len(without) == 15 and without.manifest_sha256 != one.manifest_sha256


def test_embeddings_that_are_not_finite_give_no_numbers(notes, model):
    one = read_set([notes[0]])
    original = model.clap.audio_projection[-1].weight.data.clone()
    model.clap.audio_projection[-1].weight.data[0, 0] = torch.nan
    try:
        with pytest.raises(DataError, match=r"NaN or infinite embeddings for 16 of 16 clips \(note00 and 15 more\)"):
            encode_set(model, one)
    finally:
        model.clap.audio_projection[-1].weight.data = original
    encode_set(model, one)


def test_what_is_no_evaluation_set_is_refused(tmp_path, notes):
    folder, clips = notes
    shards = shards_of(clips, tmp_path / "corpus" / "test")
    twice = replace(clips[1], id=clips[0].id)
    other = shards_of([twice], tmp_path / "other")
    with pytest.raises(DataError, match=r"two clips have the id 'note00': .*test/00000.tar:note00 and .*other/00000"):
        read_set([shards, other])
    with pytest.raises(DataError, match="two clips have the id"):
        read_set([folder, folder])
    rows = [["audio", "id"], ["notes/note00.wav", "a"], ["notes/note01.wav", "a"]]
    with pytest.raises(DataError, match=r"two clips have the id 'a': .*note00.wav and .*note01.wav"):
        read_set([write_table(tmp_path / "twice.csv", rows)])
    with pytest.raises(DataError, match=r"holds no .tar; its folders do, name one of them: test"):
        read_set([tmp_path / "corpus"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no sound files"):
        read_set([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"no clip in .*none.csv; 1 cannot be used:\n  .*none.csv:2"):
        read_set([write_table(tmp_path / "none.csv", [["audio"], [""]])])
    with pytest.raises(DataError, match="no clip in an empty list"):
        read_set([])
    with pytest.raises(DataError, match="nowhere: no such folder or table"):
        read_set([tmp_path / "nowhere"])
    with pytest.raises(DataError, match=r"note00.wav is no evaluation set; allowed are folders, .tar and .csv"):
        read_set([folder / "note00.wav"])
    with pytest.raises(UsageError, match="places is one place"):
        read_set(str(shards))
    with pytest.raises(UsageError, match="are for tables"):
        read_set([shards], columns={"id": "key"})
    with pytest.raises(UsageError, match="of shards, name the folders"):
        read_set([shards], splits=["test"])
