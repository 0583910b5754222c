"""Whatever path a table has, a sound is only ever found below the folder of sounds."""

import pytest

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw
from atr.datasets.path_tables import read_path_table
from atr.types import Clip
from tests.datasets.reading import put


@pytest.mark.parametrize(
    "name",
    [
        "one.wav",
        "audio/one.wav",
        "/home/ann/sets/audio/one.wav",
        r"C:\sets\audio\one.wav",
        "../../etc/one.wav",
        "audio/one",
    ],
)
def test_the_last_folders_and_the_name_count(tmp_path, name):
    path = put(tmp_path / "audio" / "one.wav")
    table = put(tmp_path / "table.csv", f"where,what\n{name},dog\n")
    (clip,) = read_path_table(
        Raw(tmp_path, AudioFiles(tmp_path)), table, ("where", "what"), Clip(id="", audio="", dataset="X"), "x"
    )
    assert clip == Clip(id="one", audio=str(path), labels=["dog"], source="x:one", dataset="X")


def test_folders_tell_files_of_one_name_apart(tmp_path):
    for folder in ("a", "b"):
        put(tmp_path / folder / "one.wav")
    table = put(tmp_path / "table.csv", "where,what\nb/one.mp3,dog\none.mp3,dog\n")
    found, bad = read_path_table(
        Raw(tmp_path, AudioFiles(tmp_path)), table, ("where", "what"), Clip(id="", audio=""), "x"
    )
    assert found.audio == str(tmp_path / "b" / "one.wav")
    assert "'one.mp3' stands for 2 files" in bad.reason


def test_all_sound_files_come_sorted_and_once(tmp_path):
    for name in ("b/Title [abcdefghijk].webm", "a/two.wav", "a/notes.txt"):
        put(tmp_path / name)
    assert AudioFiles(tmp_path).paths() == [tmp_path / "a" / "two.wav", tmp_path / "b" / "Title [abcdefghijk].webm"]
    assert AudioFiles(None).paths() == []
