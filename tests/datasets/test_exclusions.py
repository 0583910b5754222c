"""Lists of recordings that are not to be trained on."""

import json

import pytest

from atr.datasets.exclusions import read_exclusions
from atr.errors import DataError
from tests.conftest import SHARED

REAL = SHARED / "data" / "captions" / "wavcaps"


def test_a_black_list_of_wavcaps(tmp_path):
    path = tmp_path / "list.json"
    lists = {
        "AudioSet": ["Y-bcdefghijk.wav", "ABCDEFGHIJK", "YBCDEFGHIJK"],  # the last is an id that begins with Y
        "FreeSound": ["156", 201, "156"],
        "BBC_Sound_Effects": ["07.flac"],
        "SoundBible": [],
    }
    path.write_text(json.dumps(lists))
    assert read_exclusions(path) == {
        "youtube:-bcdefghijk", "youtube:ABCDEFGHIJK", "youtube:YBCDEFGHIJK", "freesound:156", "freesound:201", "bbc:07",
    }  # fmt: skip


def test_a_text_file(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# held back\nyoutube:-bcdefghijk\n\n  freesound:156 \nfreesound:156\ntau2019:park-london-5-200\n")
    assert read_exclusions(path) == {"youtube:-bcdefghijk", "freesound:156", "tau2019:park-london-5-200"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("youtube:a\n156\n", r"list:2: '156' is no source; write youtube:r1nicOVtvkQ or freesound:102844"),
        ("youtube: a", r"list:1: 'youtube: a' is no source"),
        ("{", r"list: is no JSON \(Expecting"),
        ("[]", r"list: is a list; needed is an object with the keys AudioSet, FreeSound, BBC_Sound_Effects, Sound"),
        ('{"ESC": []}', r"list: has the unknown key 'ESC'; known are AudioSet, FreeSound"),
        ('{"FreeSound": "156"}', r"list: FreeSound is a str, not a list"),
        ('{"AudioSet": ["YABCDEFGHIJK.wav", "dog.wav"]}', r"list: AudioSet\[1\] is 'dog.wav', which is no id of a rec"),
        ('{"FreeSound": [""]}', r"list: FreeSound\[0\] is '', which is no id"),
        ('{"FreeSound": [null]}', r"list: FreeSound\[0\] is None"),
        (b"\xff\xfe\xfd", r"list: is no UTF-8 text"),
    ],
)
def test_what_is_no_list_is_named(tmp_path, content, message):
    path = tmp_path / "list"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_exclusions(path)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none: cannot be read \(No such file or directory\)"):
        read_exclusions(tmp_path / "none")


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared tables")
@pytest.mark.parametrize(
    ("name", "youtube", "freesound"),
    [("all_ac", 50_725, 5905), ("test_ac", 1451, 2078), ("ub8k_esc50_vggsound", 15_510, 2219)],
)
def test_the_real_lists(name, youtube, freesound):
    found = read_exclusions(REAL / f"blacklist_exclude_{name}.json")
    assert sum(one.startswith("youtube:") for one in found) == youtube
    assert sum(one.startswith("freesound:") for one in found) == freesound
    assert len(found) == youtube + freesound
