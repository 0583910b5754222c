"""Leaks between sets: by id, source, file name and sound; exclusion lists; what the command says."""

import csv
import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from atr.cli import app
from atr.datasets import alike, overlap
from atr.datasets.alike import read_words, shard_words
from atr.datasets.manifest import write_manifest
from atr.datasets.overlap import Leak, as_json, find_leaks, print_leaks, summary
from atr.datasets.places import open_place
from atr.errors import DataError, UsageError
from atr.shards.read import ShardSet
from atr.shards.write import write_shards
from atr.types import Clip
from tests.conftest import SHARED
from tests.datasets.test_fingerprint import bursts

META = ("id", "source", "file")


def clip(id, audio="", dataset="", source="", **more):
    return Clip(id=id, audio=audio or f"{id}.wav", dataset=dataset, source=source, **more)


@pytest.fixture
def pair(tmp_path):
    """Writes two manifests and says which kinds of match there are between them."""

    def kinds(train, evaluation, by=META):
        write_manifest([train], tmp_path / "train.jsonl")
        write_manifest([evaluation], tmp_path / "test.jsonl")
        found = find_leaks([tmp_path / "train.jsonl"], [tmp_path / "test.jsonl"], by)
        return [(leak.by, leak.detail) for leak in found.leaks]

    return kinds


def test_an_id_counts_within_its_dataset_only(pair):
    assert pair(clip("dog_17", "a", "Clotho"), clip("dog_17", "b", "Clotho")) == [(("id",), "")]
    assert pair(clip("dog_17", "a", "Clotho"), clip("dog_17", "b", "MACS")) == []
    assert pair(clip("dog_17", "a", "Clotho"), clip("dog_17", "b")) == []
    assert pair(clip("dog_17", "a"), clip("dog_17", "b")) == [(("id",), "")]
    assert pair(clip("1234567", "a"), clip("1234567", "b")) == []  # of who knows what
    assert pair(clip("1234567", "a", "FSD50K"), clip("1234567", "b", "FSD50K")) == [(("id",), "")]


def test_a_source_counts_everywhere(pair):
    one, other = clip("a1", "x", "AudioCaps", "youtube:r1nicOVtvkQ"), clip("b2", "y", "VGGSound", "youtube:r1nicOVtvkQ")
    assert pair(one, other) == [(("source",), "")]
    assert pair(replace(one, start=30.0, end=40.0), replace(other, start=35.0, end=45.0)) == [
        (("source",), "overlap: 30-40 s, 35-45 s")
    ]
    assert pair(replace(one, start=30.0, end=40.0), replace(other, start=40.0, end=50.0)) == [
        (("source",), "another stretch: 30-40 s, 40-50 s")
    ]
    assert pair(one, replace(other, source="freesound:102844")) == []
    assert pair(clip("a1", "x", "A", "102844"), clip("b2", "y", "B", "102844")) == []  # whose number?
    assert pair(clip("a1", "x", "A", "102844"), clip("b2", "y", "A", "102844")) == [(("source",), "")]


def test_a_file_name_counts_whatever_its_folder_suffix_and_case(pair):
    assert pair(clip("a1", "in/Heavy Rain.wav", "A"), clip("b2", "out\\heavy rain.FLAC", "B")) == [(("file",), "")]
    assert pair(clip("a1", "rain.wav", "A"), clip("b2", "rain.wav", "B")) == []  # shorter than 6 characters
    assert pair(clip("a1", "rain.wav", "A"), clip("b2", "rain.wav", "A")) == [(("file",), "")]
    assert pair(clip("a1", "1234567.wav"), clip("b2", "1234567.wav")) == []
    assert pair(clip("a1", "long name.wav"), clip("b2", "long name.wav"), by=("id", "source")) == []


def test_names_that_anyone_uses_count_within_their_dataset_only(pair):
    for name in ("audio.wav", "clip_0001.wav", "Recording 01.wav", "train_samples-3.flac", "output.wav"):
        assert pair(clip("a1", name, "A"), clip("b2", name, "B")) == []
        assert pair(clip("a1", name, "A"), clip("b2", name, "A")) == [(("file",), "")]
    assert pair(clip("clip_0001", "a"), clip("clip_0001", "b")) == []
    assert pair(clip("a1", "clip of rain.wav", "A"), clip("b2", "clip of rain.wav", "B")) == [(("file",), "")]


def test_a_source_without_a_name_is_none(pair):
    for source in ("", " ", "freesound:", "youtube: ", "n/a", "youtube:None", "Unknown"):
        assert pair(clip("a1", "x", "A", source), clip("b2", "y", "A", source)) == []
    assert pair(clip("a1", "x", "A", "youtube:ABCdef12345"), clip("b2", "y", "A", "youtube:abcdef12345")) == []
    assert pair(clip("a1", "x", "A", "YouTube:ABCdef12345"), clip("b2", "y", "B", "youtube:ABCdef12345")) == [
        (("source",), "")
    ]


def test_a_recording_cut_into_many_clips_gives_a_few_leaks_each(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap, "MATES", 3)
    for name in ("train", "test"):
        clips = [clip(f"{name}-cut-{number}", source="youtube:r1nicOVtvkQ") for number in range(10)]
        write_manifest(clips, tmp_path / f"{name}.jsonl")
    found = find_leaks([tmp_path / "train.jsonl"], [tmp_path / "test.jsonl"], META)
    assert (len(found.leaks), found.clips) == (30, 10) and summary(found).endswith("(10 by source)")


def test_a_pair_is_one_leak_with_all_its_kinds(tmp_path):
    shared = clip("dog_17", "Old Dog.wav", "Clotho", "freesound:17")
    write_manifest([clip("cat_03", "cat three.wav", "Clotho"), shared], tmp_path / "train.jsonl")
    write_manifest([shared], tmp_path / "test.jsonl")
    found = find_leaks([tmp_path / "train.jsonl"], [tmp_path / "test.jsonl"], META)
    name = f"{tmp_path}/train.jsonl:dog_17"
    assert found.leaks == [Leak(name, f"{tmp_path}/test.jsonl:dog_17", META, "")]
    assert (found.leaks[0].number, found.compared, found.clips, found.same, found.bad) == (1, 2, 1, {}, [])
    assert summary(found) == (
        "1 of 2 training clips are in an evaluation set or on an exclusion list (1 by id, 1 by source, 1 by file)"
    )


def test_the_same_shards_on_both_sides_are_told_in_one_line(shards, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "other.tar").write_bytes((shards / "00000.tar").read_bytes())
    for evaluation in (shards, copy):
        found = find_leaks([open_place(shards)], [open_place(evaluation)])
        assert found.leaks == [] and found.same == {f"{shards}/00000.tar": list(range(16))}
        assert "(all 16 of " in summary(found) and found.clips == 16


def test_a_damaged_line_is_listed_and_the_others_are_compared(tmp_path):
    write_manifest([clip("dog_17")], tmp_path / "test.jsonl")
    (tmp_path / "train.jsonl").write_text('{"id": 3}\n{"id": "dog_17", "audio": "dog_17.wav"}\n')
    found = find_leaks([tmp_path / "train.jsonl"], [tmp_path / "test.jsonl"], META)
    assert [leak.train for leak in found.leaks] == [f"{tmp_path}/train.jsonl:dog_17"]
    assert [one.key for one in found.bad] == [f"{tmp_path}/train.jsonl:1"]
    assert found.bad[0].reason.startswith("needs id and audio")


def test_a_byte_order_mark_is_no_damage(tmp_path):
    write_manifest([clip("dog_17")], tmp_path / "test.jsonl")
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "test.jsonl").read_bytes())
    found = find_leaks([tmp_path / "train.jsonl"], [tmp_path / "test.jsonl"], META)
    assert (found.clips, found.bad) == (1, [])


def test_wrong_kinds_and_places(tmp_path):
    with pytest.raises(UsageError, match="'name'; allowed: id, source, file, fingerprint"):
        find_leaks([], [], ["name"])
    with pytest.raises(DataError, match="does not exist"):
        open_place(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"nothing\.jsonl: cannot be read"):
        find_leaks([open_place(tmp_path / "nothing.jsonl")], [])
    with pytest.raises(DataError, match="https://host/shards is remote; copy"):
        open_place("https://host/shards")


def test_sources_on_an_exclusion_list(tmp_path, monkeypatch):
    stub = ModuleType("atr.datasets.exclusions")
    stub.read_exclusions = lambda path: {"youtube:r1nicOVtvkQ", "freesound:17"}
    monkeypatch.setitem(sys.modules, "atr.datasets.exclusions", stub)
    write_manifest(
        [clip("dog_17", source="freesound:17"), clip("cat_18", source="freesound:18")], tmp_path / "train.jsonl"
    )
    found = find_leaks([tmp_path / "train.jsonl"], [], META, [tmp_path / "black.json"])
    assert found.leaks == [
        Leak(f"{tmp_path}/train.jsonl:dog_17", f"{tmp_path}/black.json", ("exclusion list",), "freesound:17")
    ]


@pytest.fixture
def sounds(tmp_path):
    """Training shards of three sounds, and a test manifest with the second, a silent one and one that is no sound."""
    clips = []
    for seed in range(3):
        soundfile.write(tmp_path / f"train{seed}.flac", bursts(seed), 44_100)
        clips.append(clip(f"train{seed}", str(tmp_path / f"train{seed}.flac")))
    for number, one in enumerate(clips):
        write_shards([one], tmp_path / "train" / str(number))
    soundfile.write(tmp_path / "again.ogg", bursts(1)[::2], 22_050)
    soundfile.write(tmp_path / "silent.wav", np.zeros(44_100), 44_100)
    (tmp_path / "broken.wav").write_text("no sound")
    names = ("again.ogg", "silent.wav", "broken.wav")
    write_manifest([clip(name, str(tmp_path / name)) for name in names], tmp_path / "test.jsonl")
    return tmp_path


def test_the_same_sound_under_another_name(sounds):
    train = [open_place(sounds / "train" / str(number)) for number in range(3)]
    found = find_leaks(train, [sounds / "test.jsonl"])
    (leak,) = found.leaks
    assert leak.train == f"{sounds}/train/1/00000.tar:train1" and leak.evaluation == f"{sounds}/test.jsonl:again.ogg"
    assert leak.by == ("fingerprint",) and "s alike" in leak.detail
    assert found.unmatchable == 1
    assert [one.key for one in found.bad] == [f"{sounds}/test.jsonl:broken.wav"]


def test_a_manifest_is_compared_part_by_part(sounds, monkeypatch):
    monkeypatch.setattr(alike, "LINES", 2)
    clips = [clip(f"train{seed}", str(sounds / f"train{seed}.flac")) for seed in (0, 2, 1)]
    write_manifest(clips, sounds / "train.jsonl")
    found = find_leaks([sounds / "train.jsonl"], [sounds / "test.jsonl"], ["fingerprint"])
    assert [(leak.train, leak.number) for leak in found.leaks] == [(f"{sounds}/train.jsonl:train1", 2)]


def test_fingerprints_are_kept_beside_their_shard_and_made_again_for_another(sounds, monkeypatch):
    shards = ShardSet([sounds / "train" / "0"])
    beside = sounds / "train" / "0" / "00000.fingerprint.npz"
    first = shard_words(shards, 0)
    content = beside.read_bytes()
    monkeypatch.setattr(alike, "sound_words", None)  # nothing is decoded again
    assert (shard_words(shards, 0).clips[0] == first.clips[0]).all()
    monkeypatch.undo()
    assert read_words(beside, ShardSet([sounds / "train" / "1"]).indexes[0]) is None
    entry = content.index(b"PK\x01\x02")  # in the zip's directory: the compression's number, the version needed
    odd = (content[: entry + at] + bytes([99]) + content[entry + at + 1 :] for at in (6, 8, 10))
    for damage in (b"", content[:-200], b"PK" + content[2:200], *odd):
        beside.write_bytes(damage)
        assert read_words(beside, shards.indexes[0]) is None
    assert (shard_words(shards, 0).clips[0] == first.clips[0]).all()
    assert beside.read_bytes() == content


def test_a_sound_that_cannot_be_read_is_remembered_as_such(tmp_path):
    (tmp_path / "broken.flac").write_bytes(b"fLaC no sound")
    soundfile.write(tmp_path / "good.flac", bursts(0), 44_100)
    import webdataset

    (tmp_path / "shards").mkdir()
    with webdataset.TarWriter(str(tmp_path / "shards" / "00000.tar")) as tar:
        for name in ("broken", "good"):
            tar.write({"__key__": name, "flac": (tmp_path / f"{name}.flac").read_bytes(), "json": {"text": "x"}})
    shards = ShardSet([tmp_path / "shards"])
    first, again = shard_words(shards, 0), shard_words(shards, 0)
    assert list(first.bad) == [0] and first.bad == again.bad and "cannot be decoded" in first.bad[0]
    assert [len(one) for one in again.clips] == [len(one) for one in first.clips] and len(first.clips[1]) > 100


def test_fingerprints_of_a_shard_with_a_quarantine(sounds):
    """They are those of all its samples, whoever is left out; also where that is all."""
    write_shards([clip(f"train{seed}", str(sounds / f"train{seed}.flac")) for seed in range(3)], sounds / "all")
    whole = ShardSet([sounds / "all"])
    keys = [whole.indexes[0].key(row) for row in range(3)]
    row = json.dumps({"shard": "00000.tar", "key": next(k for k in keys if k != "train1"), "reason": "silent"})
    (sounds / "all" / "quarantine.jsonl").write_text(row)
    found = find_leaks([ShardSet([sounds / "all"])], [sounds / "test.jsonl"], ["fingerprint"])
    assert [leak.train for leak in found.leaks] == [f"{sounds}/all/00000.tar:train1"] and found.compared == 2
    assert len(read_words(sounds / "all" / "00000.fingerprint.npz", whole.indexes[0]).clips) == 3
    own = ShardSet([sounds / "all", sounds / "train" / "0"])
    own.select([2])  # train0 alone: all of the first shard is left out
    assert len(shard_words(own, 0).clips) == 3 and own.name(0).endswith(":train0")


def clotho(folder, split):
    table = SHARED / "data" / "captions" / "clotho" / f"{split}.csv"
    if not table.is_file():
        pytest.skip("Clotho's tables are not here")
    with table.open(newline="", encoding="utf-8") as file:
        names = [row["file_name"] for row in csv.DictReader(file)]
    path = folder / f"{split}.jsonl"
    write_manifest([clip(name.removesuffix(".wav"), name, "Clotho") for name in names], path)
    return path


def test_clotho_has_four_names_in_two_splits(tmp_path):
    train, val, test = (clotho(tmp_path, split) for split in ("train", "val", "test"))
    counts = [
        [sum("id" in leak.by for leak in find_leaks([one], [other], META).leaks) for one, other in pairs]
        for pairs in ([(train, val), (train, test), (val, test)],)
    ]
    assert counts == [[1, 1, 2]]


def test_the_command_exits_with_one_for_leaks_and_zero_for_none(tmp_path):
    write_manifest([clip("dog_17"), clip("cat_18")], tmp_path / "train.jsonl")
    write_manifest([clip("dog_17")], tmp_path / "test.jsonl")
    write_manifest([clip("bird_19")], tmp_path / "val.jsonl")
    train, test, val = (str(tmp_path / f"{name}.jsonl") for name in ("train", "test", "val"))
    leaks = CliRunner().invoke(app, ["leaks", train, val, test, "--by", "id,file", "--json"])
    assert leaks.exit_code == 1
    assert json.loads(leaks.stdout) == {
        "compared": 2, "clips": 1, "same": {}, "unmatchable": 0, "bad": [],
        "leaks": [{"train": f"{train}:dog_17", "evaluation": f"{test}:dog_17", "by": ["id", "file"], "detail": ""}],
    }  # fmt: skip
    none = CliRunner().invoke(app, ["leaks", train, val, "--by", "id, file"])
    assert none.exit_code == 0 and "none of 2 training clips was found in an evaluation set" in none.stdout
    table = CliRunner().invoke(app, ["leaks", train, test, "--by", "id"])
    assert table.exit_code == 1 and "1 of 2 training clips" in table.stdout


def test_brackets_in_names_are_no_markup(tmp_path, capsys):
    for name in ("train", "test"):
        write_manifest([clip("Song [/b] hello"), clip("Rain [r1nicOVtvkQ]")], tmp_path / f"{name}.jsonl")
    print_leaks(find_leaks([tmp_path / "train.jsonl"], [tmp_path / "test.jsonl"], ["id"]), ["id"])
    said = "".join(capsys.readouterr().out.split())
    assert "[/b]" in said and "[r1nicOVtvkQ]" in said


def test_a_long_list_is_cut_on_the_screen_and_whole_in_json(tmp_path, capsys):
    clips = [clip(f"dog_{number}") for number in range(100, 130)]
    write_manifest(clips, tmp_path / "train.jsonl")
    write_manifest(clips, tmp_path / "test.jsonl")
    found = find_leaks([tmp_path / "train.jsonl"], [tmp_path / "test.jsonl"], ["id"])
    print_leaks(found, ["id"])
    assert "… and 10 more; --json prints all" in capsys.readouterr().out
    assert len(json.loads(as_json(found))["leaks"]) == 30
