"""`atr caption --out`: one file with everything, the same bytes however often it was killed, and what it refuses."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import soundfile
import torch

import atr
from atr import caption_places as module
from atr import embed
from atr.caption_places import caption_places, write_captions
from atr.captions import Caption, Captioned
from atr.errors import DataError, UsageError
from atr.models.decode import Decoding
from atr.shards.write import write_shards
from tests.conftest import ROOT, make_clips, tone

NUCLEUS = Decoding("nucleus", top_p=1.0, seed=3)
# The real command in small groups, which stops for good at a place of its way.
PARKED = """
import contextlib, sys, time, types
from pathlib import Path
import torch
from atr import caption_places, embed
from atr.cli import main
torch.set_num_threads(1)
place, sys.argv = sys.argv[1], ["atr", *sys.argv[2:]]
embed.GROUP_CLIPS, whole, remove = 4, caption_places.whole_file, caption_places.shutil.rmtree
def park():
    Path("parked").touch()
    time.sleep(600)
@contextlib.contextmanager
def stuck(path):
    with whole(path) as part:
        if path.name == place:
            part.write_bytes(b"half a file")
            park()
        yield part
def late(path):
    if place == "end":
        (path / "settings.json").unlink()
        park()
    remove(path)
caption_places.whole_file, caption_places.shutil = stuck, types.SimpleNamespace(rmtree=late)
main()
"""


@pytest.fixture(autouse=True)
def _one_thread(_same_threads):
    torch.set_num_threads(1)  # tensors are tiny


@pytest.fixture
def sounds(tmp_path):
    """Eleven sounds of 0.2 to 2.7 s, one of them in a folder, and one file that is none."""
    folder = tmp_path / "sounds"
    (folder / "inner").mkdir(parents=True)
    for number in range(11):
        path = folder / ("inner" if number == 9 else "") / f"{number:02d}, low.wav"
        soundfile.write(path, tone(200 + 50 * number, 0.2 + 0.25 * number), 16_000)
    (folder / "05b.wav").write_text("no sound")
    return folder


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def killed(tmp_path, place, *arguments):
    """Runs `atr caption` until it is where it stops, and kills it."""
    command = [sys.executable, "-c", PARKED, place, "caption", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    while not (tmp_path / "parked").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / "parked").unlink()


@pytest.mark.parametrize("times", [False, True])
def test_the_file_holds_what_caption_gives(captioning, sounds, tmp_path, times):
    out = tmp_path / "out.csv"
    done = caption_places(captioning, [sounds], out, NUCLEUS, times, batch=3, progress=False)
    header, *found = rows(out)
    model, expected = atr.load(captioning), []
    for name in [*(f"{number:02d}, low.wav" for number in (*range(9), 10)), "inner/09, low.wav"]:
        if times:
            captions = model.caption(sounds / name, times=True, method="nucleus", top_p=1.0, seed=3)
            expected += [[name, f"{one.start:.3f}", f"{one.end:.3f}", one.text] for one in captions]
        else:
            expected.append([name, model.caption(sounds / name, method="nucleus", top_p=1.0, seed=3)])
    assert header == (["id", "start", "end", "caption"] if times else ["id", "caption"]) and found == expected
    assert len({row[-1] for row in found}) > 5 and all(row[-1] for row in found)
    (bad,) = done.bad
    assert bad.key == "05b.wav" and "cannot be decoded" in bad.reason
    assert not out.with_name("out.csv.part").exists()


def test_killed_and_continued_gives_the_same_bytes(captioning, sounds, tmp_path, monkeypatch):
    settings = ["--method", "nucleus", "--top-p", "1", "--seed", "3", "--times", "--quiet"]
    arguments = [captioning, "sounds", "--out", "out.csv", *settings]
    out, part = tmp_path / "out.csv", tmp_path / "out.csv.part"
    killed(tmp_path, "000001.json", *arguments)
    (first,) = part.glob("0*.json")
    written = first.stat().st_mtime_ns
    assert first.name == "000000.json" and not out.exists()
    killed(tmp_path, "end", *arguments)  # the file is there, and its part was about to be removed
    assert [path.name for path in sorted(part.glob("0*.json"))] == ["000000.json", "000001.json", "000002.json"]
    assert first.stat().st_mtime_ns == written
    content = out.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(embed, "GROUP_CLIPS", 4)
        patch.setattr(module, "caption_sources", lambda *_, **__: 1 / 0)  # all is done
        done = caption_places(captioning, [sounds], out, NUCLEUS, True)
    assert out.read_bytes() == content and not part.exists()
    assert len(done.sounds) == 11 and [one.key for one in done.bad] == ["05b.wav"]

    caption_places(captioning, [sounds], tmp_path / "other.csv", NUCLEUS, True)  # in one go and one group
    assert (tmp_path / "other.csv").read_bytes() == content
    caption_places(captioning, [sounds], tmp_path / "seed.csv", Decoding("nucleus", top_p=1.0, seed=4), True)
    assert (tmp_path / "seed.csv").read_bytes() != content  # a control


def test_other_weights_settings_and_sounds_are_refused(captioning, trained, sounds, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_captions", stopped)
        caption_places(captioning, [sounds], out, NUCLEUS)
    with pytest.raises(UsageError, match=r"out\.csv\.part was made with seed 3 instead of 4; remove it or choose"):
        caption_places(captioning, [sounds], out, Decoding("nucleus", top_p=1.0, seed=4))
    with pytest.raises(UsageError, match="was made with times False instead of True"):
        caption_places(captioning, [sounds], out, NUCLEUS, times=True)
    with pytest.raises(UsageError, match="was made with other sounds"):
        caption_places(captioning, [sounds / "inner"], out, NUCLEUS)
    model = atr.load(captioning)
    next(model.captioner.mapping.parameters()).data.flatten()[0] += 0.5
    with monkeypatch.context() as patch, pytest.raises(UsageError, match=r"was made with weights '\w+' instead of"):
        patch.setattr(module, "load", lambda checkpoint: model)
        caption_places(captioning, [sounds], out, NUCLEUS)
    group = tmp_path / "out.csv.part" / "000000.json"
    content = json.loads(group.read_text())
    group.write_text(json.dumps(content | {"about": content["about"] | {"seed": 9}}))
    with pytest.raises(UsageError, match="was made with seed 9 instead of 3"):
        caption_places(captioning, [sounds], out, NUCLEUS)
    group.write_text("half a fi")
    with pytest.raises(DataError, match=r"000000\.json cannot be read .*; remove it, and the same command makes it"):
        caption_places(captioning, [sounds], out, NUCLEUS)
    group.unlink()
    caption_places(captioning, [sounds], out, NUCLEUS, batch=5)
    with pytest.raises(UsageError, match=r"out\.csv: is there already; remove it or choose another file"):
        caption_places(captioning, [sounds], out, NUCLEUS)
    with pytest.raises(UsageError, match="its folder does not exist; make it first"):
        caption_places(captioning, [sounds], tmp_path / "no" / "out.csv")
    with pytest.raises(UsageError, match="captions need a captioning checkpoint"):
        caption_places(trained, [sounds], tmp_path / "new.csv")
    with pytest.raises(DataError, match=r"none of 1 sounds can be captioned; the first is .*05b\.wav cannot be dec"):
        caption_places(captioning, [sounds / "05b.wav"], tmp_path / "new.csv")
    assert not (tmp_path / "new.csv").exists()


def test_shards_give_keys(captioning, tmp_path):
    clips = make_clips(tmp_path / "sounds", 6)
    write_shards(clips, tmp_path / "shards", codec="flac", clips_per_shard=4)
    found = caption_places(captioning, [tmp_path / "shards"], decoding=NUCLEUS).sounds
    expected = atr.load(captioning).caption([clip.audio for clip in clips], method="nucleus", top_p=1.0, seed=3)
    assert [(one.name, one.captions[0].text) for one in found] == list(
        zip([clip.id for clip in clips], expected, strict=True)
    )


def test_any_caption_is_right_csv(tmp_path):
    odd = ['a "dog", barking', "two\nlines", "'", "=1+1", "a\r\nb", ",", "雨 é"]
    sounds = [Captioned(f"{text}.wav", [Caption(0.0, 1.25, text)]) for text in odd]
    write_captions(tmp_path / "out.csv", sounds, False)
    assert rows(tmp_path / "out.csv")[1:] == [[f"{text}.wav", text] for text in odd]
    write_captions(tmp_path / "out.csv", sounds, True)
    assert rows(tmp_path / "out.csv")[1:] == [[f"{text}.wav", "0.000", "1.250", text] for text in odd]
