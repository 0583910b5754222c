"""Finding of sound files: by name, and by YouTube id in the spellings that are in use."""

import os
from dataclasses import replace

import pytest
import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import tone

CLIP = Clip(id="clip", audio="")
VIDEO = "-bcdef_hijK"  # an id may begin with a dash and hold underscores


def put(path, seconds=0.1, rate=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(100, seconds, rate), rate, format="WAV")
    return path


@pytest.mark.parametrize(
    "stem",
    [
        "30", "30_40", "30_10", "30.0", "30.0_40.0", "30.000", "30.000_40.000", "30000", "30000_40000", "000030",
        "000030_000040",
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "Y"])
def test_a_stretch_is_found_in_all_spellings(tmp_path, prefix, stem):
    path = put(tmp_path / "deep" / f"{prefix}{VIDEO}_{stem}.wav")
    put(tmp_path / f"{VIDEO}_31.wav")
    assert AudioFiles(tmp_path).video(CLIP, VIDEO, 30.0, 40.0) == replace(CLIP, audio=str(path))


def test_times_with_a_fraction(tmp_path):
    path = put(tmp_path / f"{VIDEO}_12345.678_12355.678.wav")
    assert AudioFiles(tmp_path).video(CLIP, VIDEO, 12345.678, 12355.678) == replace(CLIP, audio=str(path))


@pytest.mark.parametrize("stem", [VIDEO, f"Y{VIDEO}", f"A title [{VIDEO}]"])
def test_a_whole_video_is_cut_and_a_stretch_is_not(tmp_path, stem):
    short = put(tmp_path / "short" / f"{stem}.wav", seconds=10.5)
    assert AudioFiles(tmp_path / "short").video(CLIP, VIDEO, 30.0, 40.0) == replace(CLIP, audio=str(short))
    whole = put(tmp_path / "whole" / f"{stem}.wav", seconds=35)
    found = AudioFiles(tmp_path / "whole").video(CLIP, VIDEO, 30.0, 40.0)
    assert found == replace(CLIP, audio=str(whole), start=30.0, end=40.0)


def test_a_file_that_is_neither_is_named(tmp_path):
    path = put(tmp_path / f"{VIDEO}.wav", seconds=20)
    found = AudioFiles(tmp_path).video(CLIP, VIDEO, 30.0, 40.0)
    assert found == BadSample("clip", f"{path}: its 20.0 s are neither the stretch nor reach its start, 30 s")
    path.write_bytes(b"no sound")
    assert AudioFiles(tmp_path).video(CLIP, VIDEO, 30.0, 40.0).reason.startswith(f"{path}: cannot be decoded")


def test_without_times_the_file_is_taken_as_it_is(tmp_path):
    whole = put(tmp_path / f"Y{VIDEO}.wav", seconds=35)
    assert AudioFiles(tmp_path).video(CLIP, VIDEO, None, None) == replace(CLIP, audio=str(whole))


@pytest.mark.parametrize("stem", [f"{VIDEO}_30_40", f"Y{VIDEO}_30.000", f"{VIDEO}_000030"])
def test_without_times_a_name_with_times_will_do(tmp_path, stem):
    path = put(tmp_path / f"{stem}.wav")
    assert AudioFiles(tmp_path).video(CLIP, VIDEO, None, None) == replace(CLIP, audio=str(path))
    put(tmp_path / f"{VIDEO}_70_80.wav")
    assert "stands for 2 files" in AudioFiles(tmp_path).video(CLIP, VIDEO, None, None).reason


def test_a_video_that_is_not_there(tmp_path):
    put(tmp_path / "other.wav")
    found = AudioFiles(tmp_path).video(CLIP, VIDEO, 30.0, 40.0)
    assert found == BadSample("clip", f"no file for video {VIDEO!r} below {tmp_path}")


@pytest.mark.parametrize("name", ["a/dog.1.wav", "a\\dog.1.wav", "./a/dog.1.wav", "dog.1.wav", "dog.1", "b/dog.1.flac"])
def test_a_name_is_found_with_and_without_folder_and_suffix(tmp_path, name):
    path = put(tmp_path / "a" / "dog.1.wav")
    (tmp_path / "a" / "dog.1.json").write_text("{}")
    assert AudioFiles(tmp_path).named(CLIP, name) == replace(CLIP, audio=str(path))


def test_of_two_files_of_a_name_the_folder_decides(tmp_path):
    paths = [put(tmp_path / "sounds" / folder / "dog.wav") for folder in ("train", "test")]
    files = AudioFiles(tmp_path)
    assert files.named(CLIP, "train/dog.wav").audio == str(paths[0])
    assert files.named(CLIP, "test/dog").audio == str(paths[1])
    found = files.named(CLIP, "dog.wav")
    assert found == BadSample("clip", f"'dog.wav' stands for 2 files ({paths[1]}, {paths[0]}); keep one of them")
    top = put(tmp_path / "dog.flac")  # one at the top is meant by a name without a folder, if the suffix agrees, too
    assert AudioFiles(tmp_path).named(CLIP, "dog").audio == str(top)
    assert "stands for 2 files" in AudioFiles(tmp_path).named(CLIP, "dog.wav").reason


def test_of_two_suffixes_the_named_one_is_taken(tmp_path):
    put(tmp_path / "a" / "dog.ogg")
    path = put(tmp_path / "a" / "dog.wav")
    assert AudioFiles(tmp_path).named(CLIP, "dog.wav").audio == str(path)
    assert "stands for 2 files" in AudioFiles(tmp_path).named(CLIP, "dog.mp3").reason


@pytest.mark.parametrize("name", ["../dog.wav", "a/../../dog.wav", "/etc/passwd", "..\\dog.wav", "\\dog.wav"])
def test_no_name_leaves_the_folder(tmp_path, name):
    put(tmp_path / "dog.wav")
    (tmp_path / "inner").mkdir()
    found = AudioFiles(tmp_path / "inner").named(CLIP, name)
    assert found.reason == f"{name!r} leaves the folder {tmp_path / 'inner'}; names must stay below it"


@pytest.mark.parametrize("name", ["", "x" * 5000, "dog\0.wav", "dog\ud800.wav"])
def test_a_name_that_no_file_can_have(tmp_path, name):
    put(tmp_path / "dog.wav")
    assert AudioFiles(tmp_path).named(CLIP, name) == BadSample("clip", f"no file {name!r} below {tmp_path}")


def test_names_on_disk_need_not_be_unicode(tmp_path):
    source = put(tmp_path / "source.wav")
    try:
        os.rename(source, os.fsencode(tmp_path) + b"/ma\xefs.wav")
    except OSError:
        pytest.skip("this file system takes only Unicode")
    put(tmp_path / "été.wav")
    files = AudioFiles(tmp_path)
    assert files.named(CLIP, "été.wav").audio == str(tmp_path / "été.wav")
    found = files.named(CLIP, "ma\udcefs.flac")
    assert os.path.isfile(found.audio)


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    path = put(tmp_path / "a" / "dog.wav")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert AudioFiles(tmp_path).named(CLIP, "dog").audio == str(path)


def test_a_folder_that_is_not_there(tmp_path):
    files = AudioFiles(tmp_path / "none")  # it is looked for when it is needed
    with pytest.raises(DataError, match=r"the folder of sounds .*none does not exist; name it with --audio-dir"):
        files.named(CLIP, "dog.wav")


def test_without_a_folder_the_names_of_the_tables_stay(tmp_path):
    files = AudioFiles(None)
    assert files.named(CLIP, "a/dog.wav") == replace(CLIP, audio="a/dog.wav")
    assert files.video(CLIP, VIDEO, 30.0, 40.0) == replace(CLIP, audio=VIDEO, start=30.0, end=40.0)


def test_folders_of_other_parts_are_left_out(tmp_path):
    mine, other = (put(tmp_path / "unpacked" / part / "x" / "7.wav") for part in ("a", "b"))
    files = AudioFiles(tmp_path)
    assert files.named(CLIP, "7", inside=["a"]).audio == str(mine)
    assert files.named(CLIP, "7", outside=["a"]).audio == str(other)
    assert files.named(CLIP, "7", inside=["a"], outside=["a", "b"]) == BadSample(
        "clip", f"no file '7' below {tmp_path}"
    )
