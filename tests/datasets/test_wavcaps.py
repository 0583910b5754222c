"""WavCaps from fixtures of the publisher's shape, and the real table of SoundBible."""

import json
from collections import Counter

import pytest

from atr.datasets import wavcaps
from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import SHARED

FREESOUND = [
    {"id": "100", "title": "", "description": "Rain on my roof", "caption": "Rain falls.", "duration": 12.5,
     "author": "a", "href": "/people/a/sounds/100/", "download_link": "https://x"},
    {"id": 200, "caption_1": "A dog.", "caption_2": "A dog barks.", "duration": "3", "audio": "wav_path"},
    {"id": "300", "caption": "A cat."},
]  # fmt: skip
AUDIOSET = [{"id": "Y-bcdefghijk.wav", "caption": "A car.", "duration": 10.0}]
REAL = SHARED / "data" / "captions" / "wavcaps"


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"num_captions_per_audio": 1, "data": records}))
    return path


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def raw(tmp_path):
    write(tmp_path / "json_files" / "FreeSound" / "fsd_final.json", FREESOUND)
    for name in ("100", "200", "300"):
        touch(tmp_path / "FreeSound_flac" / f"{name}.flac")
    return Raw(tmp_path, AudioFiles(tmp_path))


def test_counts_and_the_first_clip(raw):
    clips = list(wavcaps.read(raw, "freesound"))
    assert clips[0] == Clip(
        id="freesound_100", audio=str(raw.root / "FreeSound_flac" / "100.flac"), captions=["Rain falls."],
        split="freesound", title="Rain on my roof", duration=12.5, source="freesound:100", dataset="WavCaps",
        licence=wavcaps.CARD.licence,
    )  # fmt: skip
    assert (clips[1].captions, clips[1].duration) == (["A dog.", "A dog barks."], 3.0)
    assert [clip.source for clip in clips] == ["freesound:100", "freesound:200", "freesound:300"]


def test_audioset_is_found_by_video(raw):
    write(raw.root / "as_final.json", AUDIOSET)
    path = touch(raw.root / "AudioSet_SL" / "Y-bcdefghijk.flac")
    (clip,) = wavcaps.read(raw, "audioset")
    assert clip == Clip(
        id="Y-bcdefghijk", audio=str(path), captions=["A car."], split="audioset", duration=10.0,
        source="youtube:-bcdefghijk", dataset="WavCaps", licence=wavcaps.CARD.licence,
    )  # fmt: skip


def test_a_number_is_looked_for_in_the_folders_of_its_part_only(raw):
    write(raw.root / "sb_final.json", [{"id": "100", "caption": "A bell."}])
    assert list(wavcaps.read(raw, "soundbible")) == [BadSample("soundbible_100", f"no file '100' below {raw.root}")]
    path = touch(raw.root / "unpacked" / "SoundBible_flac" / "part" / "100.flac")
    again = Raw(raw.root, AudioFiles(raw.root))
    assert [clip.audio for clip in wavcaps.read(again, "soundbible")] == [str(path)]
    assert next(wavcaps.read(again, "freesound")).audio == str(raw.root / "FreeSound_flac" / "100.flac")


def test_the_table_without_short_clips_is_read_where_the_full_one_is_not(raw):
    write(raw.root / "fsd_final_2s.json", FREESOUND[:1])
    assert len(list(wavcaps.read(raw, "freesound"))) == 3
    (raw.root / "json_files" / "FreeSound" / "fsd_final.json").unlink()
    assert len(list(wavcaps.read(raw, "freesound"))) == 1


def test_records_that_give_no_clip_are_named(raw):
    records = [
        {"caption": "a"}, {"id": True, "caption": "a"}, {"id": "1", "caption": " "}, {"id": "1", "caption": 7}, "text",
        {"id": "100", "caption": "a", "duration": "long"}, {"id": "100", "caption": "b"},
    ]  # fmt: skip
    path = write(raw.root / "json_files" / "FreeSound" / "fsd_final.json", records)
    found = list(wavcaps.read(raw, "freesound"))
    bad = [one for one in found if isinstance(one, BadSample)]
    assert [one.reason for one in bad] == [
        "its id is None, which is none of freesound",
        "its id is True, which is none of freesound",
        "'1' has no caption",
        "'1' has no caption",
        "is a str, not an object with the fields of a clip",
        "'freesound_100' came before",
    ]
    assert bad[0].key == f"{path}: byte 39"
    assert [one.duration for one in found if isinstance(one, Clip)] == [None]
    write(raw.root / "as_final.json", [{"id": "Yshort.wav", "caption": "a"}])
    assert next(wavcaps.read(raw, "audioset")).reason == "its id is 'Yshort.wav', which is none of audioset"


def test_another_file_is_refused(raw):
    with pytest.raises(MissingSplit, match=r"holds neither json_files/BBC_Sound_Effects/bbc_final\.json nor bbc_final"):
        list(wavcaps.read(raw, "bbc"))
    (raw.root / "bbc_final.json").write_text('{"data": [{"id": "1", "capt')
    with pytest.raises(DataError, match=r"bbc_final\.json: byte 22: is no JSON .*fetch it again"):
        list(wavcaps.read(raw, "bbc"))


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared tables")
def test_the_real_table():
    clips = list(wavcaps.read(Raw(REAL, AudioFiles(None)), "soundbible"))
    assert Counter(type(one) for one in clips) == {Clip: 1232}
    first = clips[0]
    assert (first.id, first.audio, first.source) == ("soundbible_2219", "2219", "soundbible:2219")
    assert (first.title, first.duration) == ("Airplane Landing Airport", 14.1424375)
    assert first.captions == ["An airplane is landing."]
