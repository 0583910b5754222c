"""Preparing: the same bytes however it was interrupted, by whatever it was run."""

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from atr.datasets.manifest import read_clips, read_manifest, write_manifest
from atr.errors import DataError, UsageError
from atr.shards import prepare as module
from atr.shards.prepare import Settings, kind_of, prepare
from atr.shards.read import ShardSet
from atr.types import BadSample, Clip
from tests.conftest import ROOT, make_clips, tone
from tests.pipeline.test_decode import converted, needs_ffmpeg

SMALL = Settings(clips_per_shard=3)


def run(rows, folder, settings=SMALL, **options):
    return prepare(rows, folder, settings, progress=False, **options)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_a_prepared_folder_holds(tmp_path, clips):
    bad = [BadSample("t.csv:3", "has 1 cells instead of 3"), BadSample("t.csv:9", "has 2 cells instead of 3")]
    gone = Clip(id="gone", audio=str(tmp_path / "gone.wav"))
    summary = run([*clips, *bad, gone], tmp_path / "out")
    names = [f"{number:05d}.{suffix}" for number in range(6) for suffix in ("index.json", "tar")]
    assert sorted(contents(tmp_path / "out")) == [
        *names, "manifest.jsonl", "rejected.jsonl", "sizes.json", "summary.json",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    seconds = sum(1.0 + 0.05 * number for number in range(16))
    assert {name: summary[name] for name in ("listed", "clips", "captions", "words", "shards")} == {
        "listed": 19, "clips": 16, "captions": 32, "words": 16 * 7, "shards": 6,
    }  # fmt: skip
    assert summary["hours"] == pytest.approx(seconds / 3600, abs=1e-4) and summary["clipped_samples"] == 0
    assert summary["rejected"] == {"has … cells instead of …": 2, "…: cannot be read (No such file or directory)": 1}
    rejected = [json.loads(line)["clip"] for line in (tmp_path / "out" / "rejected.jsonl").open()]
    assert rejected == ["t.csv:3", "t.csv:9", "gone"]
    stored = {clip.id: clip for clip in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert stored["note03"] == replace(clips[3], duration=1.15, sample_rate=16_000)
    in_shards = {clip.id: clip for clip in read_clips(tmp_path / "out")}
    assert in_shards["note03"] == replace(stored["note03"], audio="note03.wav")
    assert list(in_shards) == list(stored) != sorted(stored)
    sizes = json.loads((tmp_path / "out" / "sizes.json").read_text())
    assert sum(sizes.values()) == 16 and ShardSet([tmp_path / "out"]).lost == []


def test_workers_and_backends_give_the_same_bytes(tmp_path, clips):
    run(clips, tmp_path / "one", workers=1)
    run(clips[::-1], tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    run([*clips[1:], replace(clips[0], captions=["another"])], tmp_path / "other")
    assert contents(tmp_path / "other") != contents(tmp_path / "one")


def test_ray_on_two_workers_gives_the_same_bytes(tmp_path, clips):
    pytest.importorskip("ray")
    run(clips, tmp_path / "local")
    summary = run(clips, tmp_path / "ray", backend="ray", workers=2)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local") and summary["clips"] == 16


def test_ray_that_is_not_installed_is_asked_for(tmp_path, clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "atr\[ray\]"'):
        run(clips, tmp_path / "out", backend="ray")


CHILD = """
import sys
from pathlib import Path
from atr.datasets.manifest import read_manifest
from atr.shards.prepare import Settings, prepare
prepare(read_manifest(Path(sys.argv[1])), Path(sys.argv[2]), Settings(clips_per_shard=10, sample_rate=22_050),
        workers=int(sys.argv[3]), progress=False)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """120 clips of 3 s noise in a manifest, and what an undisturbed run makes of them."""
    folder = tmp_path_factory.mktemp("corpus")
    clips, rng = [], np.random.default_rng(0)
    for number in range(120):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(48_000 * 3), 48_000)
        clips.append(Clip(id=path.stem, audio=str(path), captions=[f"noise {number}"]))
    clips[7] = replace(clips[7], audio=str(folder / "gone.wav"))
    write_manifest(clips, folder / "list.jsonl")
    begun = time.monotonic()
    subprocess.run(command(folder / "list.jsonl", folder / "whole", 2), env=environment(), check=True)
    return folder / "list.jsonl", contents(folder / "whole"), time.monotonic() - begun


def command(manifest, out, workers):
    return [sys.executable, "-c", CHILD, str(manifest), str(out), str(workers)]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT / "src")}


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_five_moments_the_rerun_gives_the_same_files(tmp_path, corpus, workers):
    manifest, whole, seconds = corpus
    out, rng, kept = tmp_path / "out", random.Random(workers), []
    for moment in range(5):
        process = subprocess.Popen(command(manifest, out, workers), env=environment(), start_new_session=True)
        wanted = min(11, 2 * moment + 1)  # at a moment within the work on the next shard
        deadline = time.monotonic() + 60 + 5 * seconds
        while len(list(out.glob("*.tar"))) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kept.append({path: path.stat().st_mtime_ns for path in out.glob(".prepare/0*.json")})
    subprocess.run(command(manifest, out, workers), env=environment(), check=True)
    assert contents(out) == whole
    assert [len(one) for one in kept] == sorted(len(one) for one in kept) and 0 < len(kept[0]) < len(kept[-1])
    for before, after in itertools.pairwise(kept):
        assert before.items() <= after.items()  # finished shards were not done again
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    subprocess.run(command(manifest, out, workers), env=environment(), check=True)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before  # and all done means nothing to do


@pytest.mark.parametrize("step", ["_finish", "write_manifest", "_write_whole", "as_reject"])
def test_stopped_at_any_step_of_the_end_it_goes_on(tmp_path, clips, monkeypatch, step):
    rows = [*clips, Clip(id="gone", audio="gone.wav"), BadSample("t.csv:3", "is damaged")]
    run(rows, tmp_path / "whole", workers=1)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, step, stop)
        run(rows, tmp_path / "out", workers=1)
    run(rows, tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_whose_outcome_is_missing_is_done_again(tmp_path, clips, monkeypatch):
    run(clips, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(clips, tmp_path / "out")
    (tmp_path / "out" / ".prepare" / "00002.json").unlink()
    (tmp_path / "out" / "00002.tar").write_bytes(b"half a shard")
    run(clips, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_that_was_removed_is_done_again_or_missed(tmp_path, clips, monkeypatch):
    run(clips, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(clips, tmp_path / "out")
    (tmp_path / "out" / "00002.tar").unlink()
    run(clips, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    (tmp_path / "out" / "00002.tar").unlink()
    with pytest.raises(DataError, match=r"holds 5 shards, and summary\.json tells of 6; put them back"):
        run(clips, tmp_path / "out")


def test_a_manifest_that_was_half_written_by_a_killed_run_does_not_stay(tmp_path, clips, monkeypatch):
    def die(_, path):
        path.with_name(f".{path.name}.half").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_manifest", die)
        run(clips, tmp_path / "out")
    run(clips, tmp_path / "out")
    assert not list((tmp_path / "out").glob(".manifest*"))


def test_other_clips_or_settings_are_refused(tmp_path, clips):
    run(clips, tmp_path / "out")
    with pytest.raises(DataError, match=r"differ in: codec; remove the folder, choose another --out"):
        run(clips, tmp_path / "out", replace(SMALL, codec="wav"))
    with pytest.raises(DataError, match="differ in: the listed clips"):
        run(clips[:-1], tmp_path / "out")
    assert run(clips, tmp_path / "out")["clips"] == 16
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.tar").write_bytes(b"")
    with pytest.raises(DataError, match="already holds shards from elsewhere"):
        run(clips, tmp_path / "other")


def test_a_listing_without_clips_leaves_nothing_behind(tmp_path, clips):
    with pytest.raises(DataError, match=r"none of the 1 rows gives a clip:\n  t.csv:3: is damaged"):
        run([BadSample("t.csv:3", "is damaged")], tmp_path / "out")
    with pytest.raises(DataError, match=r"none of the 1 clips can be stored:\n  gone: gone.wav: cannot be read"):
        run([Clip(id="gone", audio="gone.wav")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_clips_are_cut_by_their_times_and_the_limit(tmp_path):
    soundfile.write(tmp_path / "long.wav", tone(300, 5.0), 16_000)
    path = str(tmp_path / "long.wav")
    rows = [Clip(id="a", audio=path), Clip(id="b", audio=path, start=4.5), Clip(id="c", audio=path, start=1, end=1.5)]
    run(rows, tmp_path / "out", Settings(max_seconds=2.0))
    stored = {clip.id: clip for clip in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert {name: clip.duration for name, clip in stored.items()} == {"a": 2.0, "b": 0.5, "c": 0.5}


def test_a_cut_off_wav_is_stored_and_remarked(tmp_path, clips):
    with open(clips[0].audio, "r+b") as file:
        file.truncate(20_000)
    run(clips, tmp_path / "out")
    (remark,) = [json.loads(line) for line in (tmp_path / "out" / "remarks.jsonl").open()]
    assert remark["clip"] == "note00" and "ends after 0.62 s of the 1.00 s its header promises" in remark["reason"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codec": "mp4"}, "codec 'mp4'; allowed are keep, flac"),
        ({"codec": "keep", "sample_rate": 8000}, "copies files as they are"),
        ({"clips_per_shard": 0}, "clips_per_shard is 0"),
        ({"max_seconds": 0}, "must be above 0 s"),
        ({"max_seconds": float("inf")}, "below 1e9 s"),
        ({"max_seconds": 1.0, "codec": "keep"}, "codec 'keep' cannot"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, clips, settings, message):
    with pytest.raises(UsageError, match=message):
        run(clips, tmp_path / "out", Settings(**settings))
    with pytest.raises(UsageError, match="allowed are local, ray"):
        run(clips, tmp_path / "out", backend="spark")
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """What the parent holds at its peak, for 2 000 and for 20 000 clips that need no decoding."""

    def peak(count):
        (tmp_path / "sound.ogg").write_bytes(b"")
        code = (
            "import resource, sys\nfrom pathlib import Path\nfrom atr.shards.plan import make_plan\n"
            "from atr.types import Clip\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "rows = (Clip(id=f'c{n}', audio=f'/raw/{n}.wav', captions=['a sound of some length'] * 5)\n"
            "        for n in range(int(sys.argv[1])))\n"
            "Path(sys.argv[2]).mkdir()\nmake_plan(rows, Path(sys.argv[2]), 512)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
        )
        folder = str(tmp_path / str(count))
        done = subprocess.run(
            [sys.executable, "-c", code, str(count), folder], env=environment(), check=True, capture_output=True
        )
        return int(done.stdout) / 1024

    assert peak(20_000) < peak(2_000) + 8  # MB; all of them in a list would be 20 MB


def test_reasons_are_counted_without_names_and_numbers():
    assert kind_of("no file for video 'r1nicOVtvkQ' below /data/ac") == "no file for video … below …"
    assert kind_of("/a/b c.wav: cannot be read (No such file)") == kind_of("/x.wav: cannot be read (No such file)")
    assert kind_of("has no caption") != kind_of("has no sound")


def test_many_rows_of_tones_in_one_shard(tmp_path):
    rows = make_clips(tmp_path / "s", 4)
    assert run(rows, tmp_path / "out", Settings())["shards"] == 1


@needs_ffmpeg
def test_video_containers_are_decoded_in_the_workers(tmp_path):
    rows, wave = [], tone(300, 4.0, 48_000)
    for name, codec in (("a.m4a", "aac"), ("b.webm", "libopus"), ("c.m4a", "aac")):
        converted(tmp_path / name, wave, 48_000, "-c:a", codec)
        rows.append(Clip(id=name, audio=str(tmp_path / name)))
    rows.append(Clip(id="cut", audio=rows[0].audio, start=1.0, end=2.5))
    summary = run(rows, tmp_path / "out", Settings(clips_per_shard=2, sample_rate=16_000), workers=2)
    stored = {clip.id: clip for clip in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert summary["clips"] == 4 and stored["cut"].duration == 1.5
    assert stored["a.m4a"].duration == pytest.approx(4.0, abs=0.05)
