"""`atr prepare` and `atr shard` from the publisher's files to shards that train."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import soundfile

from atr.cli import main
from atr.datasets.manifest import read_manifest, write_manifest
from atr.datasets.prepare import prepare_corpus, print_card, print_prepared, shard_manifest
from atr.errors import AtrError, DataError, UsageError
from atr.shards.prepare import Settings
from tests.conftest import ROOT, SHARED, make_clips, tone

HEADER = "audiocap_id,youtube_id,start_time,caption\n"
TEST = HEADER + "1,aaaaaaaaaaa,10,a dog\n2,aaaaaaaaaaa,10,a cat\n3,bbbbbbbbbbb,0,rain\n4,#NAME?,0,wind\n"
DAMAGED = "… is #NAME?, which a spreadsheet put there; take the original table"


@pytest.fixture
def audiocaps(tmp_path):
    """Two splits of three; of three clips two are found, one as a whole video."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.csv").write_text(HEADER + "9,ccccccccccc,0,thunder\n")
    (tmp_path / "raw" / "test.csv").write_text(TEST)
    (tmp_path / "youtube" / "deep").mkdir(parents=True)
    soundfile.write(tmp_path / "youtube" / "deep" / "Yaaaaaaaaaaa.wav", tone(300, 25.0), 16_000)
    soundfile.write(tmp_path / "youtube" / "A storm [ccccccccccc].flac", tone(300, 9.8), 16_000)
    return tmp_path


def prepared(tmp_path, **options):
    options = {"audio_dir": tmp_path / "youtube", "progress": False} | options
    return prepare_corpus(
        "audiocaps", tmp_path / "raw", tmp_path / "out", options.pop("settings", Settings()), **options
    )


def test_each_split_is_prepared_and_one_that_is_not_there_is_reported(audiocaps, capsys):
    done = prepared(audiocaps)
    assert [(one.split, bool(one.problem)) for one in done] == [("train", False), ("validation", True), ("test", False)]
    assert "val.csv is missing" in done[1].problem and not (audiocaps / "out" / "validation").exists()
    test = done[2].summary
    assert (test["listed"], test["clips"], test["captions"], test["hours"]) == (3, 1, 2, round(10 / 3600, 4))
    assert test["rejected"] == {"no file for video … below …": 1, DAMAGED: 1}
    (clip,) = read_manifest(audiocaps / "out" / "test" / "manifest.jsonl")
    assert (clip.id, clip.start, clip.end, clip.duration) == ("aaaaaaaaaaa_10", 10.0, 20.0, 10.0)
    assert clip.captions == ["a dog", "a cat"] and clip.source == "youtube:aaaaaaaaaaa"
    rejected = [json.loads(line) for line in (audiocaps / "out" / "test" / "rejected.jsonl").open()]
    assert {row["clip"] for row in rejected} == {"bbbbbbbbbbb_0", f"{audiocaps}/raw/test.csv:5"}
    print_prepared(done)
    shown = capsys.readouterr().out
    assert "validation: " in shown and "test: 1 left out: no file for video … below …" in shown and "not there" in shown


def test_a_split_that_was_asked_for_must_be_there(audiocaps):
    with pytest.raises(DataError, match=r"validation: .*val\.csv is missing"):
        prepared(audiocaps, splits=["validation"])
    assert [one.split for one in prepared(audiocaps, splits=["test"])] == ["test"]
    with pytest.raises(UsageError, match="AudioCaps has no split 'eval'; there are: train, validation, test"):
        prepared(audiocaps, splits=["eval"])
    with pytest.raises(UsageError, match=r"no corpus is called 'audiocap'; there are: .*audiocaps"):
        prepare_corpus("audiocap", audiocaps, audiocaps / "out", Settings())
    with pytest.raises(DataError, match=r"no/such does not exist; --root is where"):
        prepare_corpus("audiocaps", audiocaps / "no/such", audiocaps / "out", Settings())


def test_without_any_sound_nothing_is_made(audiocaps):
    with pytest.raises(DataError, match=r"(?s)train: none of the 1 rows gives a clip.*test: none of the 3 rows"):
        prepared(audiocaps, audio_dir=audiocaps / "raw")
    with pytest.raises(DataError, match="nowhere does not exist; name it with --audio-dir"):
        prepared(audiocaps, audio_dir=audiocaps / "nowhere")
    assert not list((audiocaps / "out").glob("*"))


def test_tables_only(audiocaps):
    done = prepared(audiocaps, tables_only=True, audio_dir=None)
    assert done[2].summary["clips"] == 2 and done[2].summary["rejected"] == {DAMAGED: 1}
    first, second = read_manifest(audiocaps / "out" / "test" / "manifest.jsonl")
    assert (first.audio, first.start, second.audio) == ("aaaaaaaaaaa", 10.0, "bbbbbbbbbbb")
    assert sorted(path.name for path in (audiocaps / "out" / "test").iterdir()) == ["manifest.jsonl", "rejected.jsonl"]


def test_tables_alone_and_shards_in_one_folder(audiocaps):
    prepared(audiocaps, tables_only=True)
    (audiocaps / "out" / "train" / "rejected.jsonl").write_text("of the tables")
    prepared(audiocaps)
    assert not (audiocaps / "out" / "train" / "rejected.jsonl").exists()
    before = (audiocaps / "out" / "train" / "manifest.jsonl").read_text()
    with pytest.raises(DataError, match=r"train: .*out/train holds shards, whose manifest it would replace"):
        prepared(audiocaps, tables_only=True)
    assert (audiocaps / "out" / "train" / "manifest.jsonl").read_text() == before


def test_tables_alone_without_excluded_sources(audiocaps):
    (audiocaps / "list.txt").write_text("youtube:aaaaaaaaaaa\n")
    done = prepared(audiocaps, tables_only=True, exclude=[audiocaps / "list.txt"])[2].summary
    assert (done["listed"], done["clips"]) == (3, 1)
    assert done["rejected"] == {"its source … is on an exclusion list": 1, DAMAGED: 1}


def test_tables_alone_reject_what_no_manifest_can_hold(tmp_path):
    rows = ['{"audio": "a.wav", "caption": "rain"}', '{"audio": "b.wav", "caption": "half \\ud800"}']
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    table, out = tmp_path / "t.jsonl", tmp_path / "out"
    (done,) = prepare_corpus("jsonl", table, out, Settings(), tables_only=True, progress=False)
    assert (done.summary["listed"], done.summary["clips"], sum(done.summary["rejected"].values())) == (2, 1, 1)


def test_what_is_no_folder_or_full_is_told_and_one_split_that_fails_ends_in_1(audiocaps, monkeypatch, capsys):
    (audiocaps / "file").write_text("")
    with pytest.raises(AtrError, match=r"file/train: cannot be written .*; free space and run it again, or choose"):
        prepare_corpus(
            "audiocaps", audiocaps / "raw", audiocaps / "file", Settings(), audio_dir=audiocaps / "youtube",
            progress=False,
        )  # fmt: skip
    (audiocaps / "out" / "train").mkdir(parents=True)
    (audiocaps / "out" / "train" / "summary.json").write_text("{")
    status, said, _ = atr(
        capsys, monkeypatch, "prepare", "audiocaps", "--root", audiocaps / "raw", "--out", audiocaps / "out",
        "--audio-dir", audiocaps / "youtube",
    )  # fmt: skip
    assert status == 1 and "failed" in said and "summary.json: is damaged; remove" in said
    assert (audiocaps / "out" / "test" / "summary.json").is_file()


def test_a_manifest_with_paths_of_its_own_folder(tmp_path):
    clips = make_clips(tmp_path / "sounds", 4)
    rows = "".join(json.dumps({"id": clip.id, "audio": f"sounds/{clip.id}.wav"}) + "\n" for clip in clips)
    (tmp_path / "list.jsonl").write_text(rows)
    done = shard_manifest(tmp_path / "list.jsonl", tmp_path / "out", Settings(codec="ogg"), progress=False)
    assert done.summary["clips"] == 4 and done.split == "out"
    (tmp_path / "list.jsonl").write_text(rows + '{"id": "x"}\n')
    more = shard_manifest(tmp_path / "list.jsonl", tmp_path / "more", Settings(), progress=False).summary
    assert (more["listed"], more["clips"], more["rejected"]) == (5, 4, {"needs audio, as text": 1})
    assert '"reason": "needs audio, as text"' in (tmp_path / "more" / "rejected.jsonl").read_text()


def atr(capsys, monkeypatch, *arguments):
    """Exit status, stdout and stderr of the command, in this process."""
    monkeypatch.setattr(sys, "argv", ["atr", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
        sys.exit(0)
    return ended.value.code or 0, *capsys.readouterr()


def test_the_command(audiocaps, capsys, monkeypatch):
    def run(*arguments):
        return atr(capsys, monkeypatch, *arguments)

    common = ["prepare", "audiocaps", "--root", audiocaps / "raw", "--out", audiocaps / "out"]
    status, said, _ = run(*common, "--audio-dir", audiocaps / "youtube", "--sample-rate", 8000, "--json")
    answer = json.loads(said)
    assert status == 0 and answer["test"]["clips"] == 1 and "missing" in answer["validation"]["problem"]
    stored = audiocaps / "out" / "test"
    assert next(read_manifest(stored / "manifest.jsonl")).sample_rate == 8000
    status, said, _ = run("shard", stored / "manifest.jsonl", "--out", audiocaps / "again", "--codec", "wav")
    assert status == 0 and "again" in said
    assert run(*common, "--codec", "mp5")[0] == 2
    assert run(*common, "--split", "train")[0] == 1
    status, _, said = run(*common, "--column", "caption")
    assert status == 2 and "write FIELD=COLUMN" in said
    assert "N19-1011" in run("corpora", "audiocaps")[1] and "audiocaps" in run("corpora")[1]


def test_ctrl_c_says_how_to_go_on(tmp_path):
    clips = make_clips(tmp_path / "sounds", 16)
    for clip in clips:
        soundfile.write(clip.audio, tone(300, 60.0), 16_000)
    write_manifest(clips, tmp_path / "list.jsonl")
    command = [sys.executable, "-m", "atr", "shard", str(tmp_path / "list.jsonl"), "--out", str(tmp_path / "out")]
    command += ["--clips-per-shard", "1", "--sample-rate", "44100"]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.tar")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "the same command goes on with the others" in said
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}).returncode == 0
    assert len(list((tmp_path / "out").glob("*.tar"))) == 16


@pytest.mark.skipif(not (SHARED / "data" / "captions").is_dir(), reason="../shared is not here")
def test_the_real_audiocaps_tables(tmp_path):
    root = SHARED / "data" / "captions" / "audiocaps"
    done = prepare_corpus("audiocaps", root, tmp_path, Settings(), tables_only=True, progress=False)
    counts = {one.split: (one.summary["clips"], one.summary["captions"]) for one in done}
    assert counts == {"train": (49_838, 49_838), "validation": (495, 2_475), "test": (975, 4_875)}


def test_options_that_would_be_passed_over_are_refused(tmp_path):
    make_clips(tmp_path / "sounds", 1)
    with pytest.raises(
        UsageError, match=r"--column is for tables of your own \(csv, hf, jsonl, parquet\); folder knows"
    ):
        prepare_corpus("folder", tmp_path / "sounds", tmp_path / "out", Settings(), columns={"audio": "path"})
    with pytest.raises(UsageError, match="no encoding is called 'cp9494'; try utf-8, cp949 or latin-1"):
        prepare_corpus("folder", tmp_path / "sounds", tmp_path / "out", Settings(), encoding="cp9494")
    assert not (tmp_path / "out").exists()


def test_a_split_without_captions_is_remarked(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", tone(300), 16_000)
    done = prepare_corpus("folder", tmp_path, tmp_path / "out", Settings(), progress=False)
    print_prepared(done)
    assert "all: no clip has a caption; training needs captions" in capsys.readouterr().out


def test_a_card_shows_its_urls_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_card("clotho")
    shown = capsys.readouterr().out
    assert "…" not in shown.split("downloads")[1]
