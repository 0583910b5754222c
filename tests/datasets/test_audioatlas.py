"""AudioAtlas from a three-record fixture of the publisher's shape."""

import copy
import json

import pytest
import soundfile

from atr.datasets import audioatlas
from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import tone

RECORDS = [
    {
        "id": "Artlist_100", "category": "Home, Kitchen & Bath;Water;Tap", "duration": 6.0,
        "events": {
            "{1}": [["Water runs.", [[40.25, 42.0], [43.0, 46.26]]], ["A tap is on.", [[40.25, 46.25]]]],
            "{2}": [["A door shuts.", [[41.25, 42.25]]]],
        },
        "overall_caption": "Water runs while a door shuts.", "multiple_or_single": "multiple events",
        "audio_url": "https://artlist.io/sfx/track/running-water/100",
    },
    {
        "id": "audiostock_505_2", "category": "Animals;Dog", "duration": 2.0,
        "events": {"{1}": [["A dog barks.", [[10.0, 12.0]]]]}, "overall_caption": "A dog barks.",
        "multiple_or_single": "single event", "audio_url": "https://www.audiostock.io/audio/dogs%20505.wav",
    },
    {
        "id": "audiostock_606", "category": "Animals;Cat", "duration": 1.0,
        "events": {"{1}": [["A cat.", [[0, 1]]]]}, "overall_caption": "A cat.", "multiple_or_single": "single event",
        "audio_url": "https://www.audiostock.io/audio/606",
    },
]  # fmt: skip
THEMES = '{"Home, Kitchen & Bath": ["Tap", "Sink"]}\n{"Animals": ["Dog", "Cat"]}\n'


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "AudioAtlas.json").write_text(json.dumps(RECORDS))
    (tmp_path / "SoundTrace.jsonl").write_text(THEMES)
    for name, length in (("Artlist_100", 6), ("dogs 505", 30), ("606", 1)):  # the second is the whole track
        soundfile.write(tmp_path / f"{name}.wav", tone(200, length, 1000), 1000)
    return Raw(tmp_path, AudioFiles(tmp_path))


def test_counts_and_the_first_clip(raw):
    clips = list(audioatlas.read(raw, "overall"))
    assert clips[0] == Clip(
        id="Artlist_100", audio=str(raw.root / "Artlist_100.wav"), captions=["Water runs while a door shuts."],
        labels=["Home, Kitchen & Bath", "Tap"], split="overall", duration=6.0,
        events=[
            ("Water runs.", 0.0, 1.75), ("Water runs.", 2.75, 6.0), ("A tap is on.", 0.0, 6.0),
            ("A door shuts.", 1.0, 2.0),
        ],
        source="artlist:100", dataset="AudioAtlas", licence=audioatlas.CARD.licence,
    )  # fmt: skip
    assert [(clip.source, clip.start, clip.end) for clip in clips] == [
        ("artlist:100", None, None), ("audiostock:505", 10.0, 12.0), ("audiostock:606", None, None),
    ]  # fmt: skip


def test_a_clip_for_each_group_of_events(raw):
    clips = list(audioatlas.read(raw, "events"))
    assert clips[1] == Clip(
        id="Artlist_100_event2", audio=str(raw.root / "Artlist_100.wav"), captions=["A door shuts."],
        labels=["Home, Kitchen & Bath", "Tap"], split="events", duration=1.0, start=1.0, end=2.0,
        events=[("A door shuts.", 0.0, 1.0)], source="artlist:100", dataset="AudioAtlas",
        licence=audioatlas.CARD.licence,
    )  # fmt: skip
    assert [(clip.id, clip.captions, clip.start, clip.end) for clip in clips] == [
        ("Artlist_100_event1", ["Water runs.", "A tap is on."], 0.0, 6.0),
        ("Artlist_100_event2", ["A door shuts."], 1.0, 2.0),
        ("audiostock_505_2_event1", ["A dog barks."], 10.0, 12.0),
        ("audiostock_606_event1", ["A cat."], 0.0, 1.0),
    ]


def test_without_sounds_the_clips_carry_their_names(raw):
    clips = list(audioatlas.read(Raw(raw.root, AudioFiles(None)), "overall"))
    assert [(clip.audio, clip.start) for clip in clips] == [
        ("Artlist_100", None), ("audiostock_505_2", None), ("audiostock_606", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "x"}, "id is 'x'; it should be like Artlist_100216 or audiostock_505870_2"),
        ({"overall_caption": ""}, "Artlist_100 has no overall_caption"),
        ({"duration": "6"}, "Artlist_100: duration is '6', not a number of seconds"),
        ({"category": "Home;Tap"}, "Artlist_100: 'Tap' is no class of the theme 'Home' in SoundTrace.jsonl"),
        ({"category": "Animals;Tap"}, "Artlist_100: 'Tap' is no class of the theme 'Animals' in SoundTrace.jsonl"),
        ({"duration": 5.8}, "Artlist_100: its events take 6.01 s, the clip only 5.80 s"),
        ({"events": {}}, "Artlist_100: events are not {number: [[caption, [[onset, offset], ...]], ...]}"),
        ({"events": {"{1}": [["a", [[2, 1]]]]}}, "'a' lasts from 2.0 to 1.0 s"),
        ({"id": "audiostock_606"}, "'audiostock_606' came before"),
        ({"id": "Artlist_7", "audio_url": 7}, "no file 'Artlist_7' below"),
    ],
)
def test_records_that_give_no_clip_are_named(raw, change, reason):
    records = [*copy.deepcopy(RECORDS[1:]), RECORDS[0] | change]
    path = raw.root / "AudioAtlas.json"
    path.write_text(json.dumps(records))
    found = list(audioatlas.read(raw, "overall"))
    assert [type(one) for one in found] == [Clip, Clip, BadSample]
    assert reason in found[2].reason
    assert found[2].key in (f"{path}: byte {len(json.dumps(records[:2])) + 1}", "Artlist_7")


def test_without_the_taxonomy_any_theme_will_do(raw):
    (raw.root / "SoundTrace.jsonl").unlink()
    (raw.root / "AudioAtlas.json").write_text(json.dumps([RECORDS[0] | {"category": "Home;Tap"}]))
    assert [clip.labels for clip in audioatlas.read(raw, "overall")] == [["Home", "Tap"]]


def test_another_file_is_refused(raw):
    (raw.root / "SoundTrace.jsonl").write_text('{"Animals": ["Dog"]}\n["Cat"]\n')
    with pytest.raises(DataError, match=r"SoundTrace\.jsonl:2: is not an object \{theme: \[class, \.\.\.\]\}"):
        list(audioatlas.read(raw, "overall"))
    (raw.root / "AudioAtlas.json").unlink()
    with pytest.raises(MissingSplit, match=r"AudioAtlas\.json is missing: AudioAtlas' annotations"):
        list(audioatlas.read(raw, "overall"))
