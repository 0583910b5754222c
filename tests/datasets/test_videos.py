"""Lists of videos in the shapes that are known: AutoReCap, ambience-audio, Flickr, and columns that the user names."""

import json

import pytest
import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw, find_corpus
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import tone

corpus = find_corpus("videos")


def read(tmp_path, name, content, of="all", audio=None, **columns):
    (tmp_path / name).write_text(content)
    raw = Raw(tmp_path / name, AudioFiles(audio), columns)
    assert of in corpus.splits(raw)
    return list(corpus.read(raw, of))


def test_a_table_with_files(tmp_path):
    (tmp_path / "sounds").mkdir()
    soundfile.write(tmp_path / "sounds" / "-0DdlOuIFUI_30.wav", tone(300), 16_000)
    content = "video_id,start_time,caption\n -0DdlOuIFUI,30,rain\nwJVRW8UM,0,x\n-0DdlOuIFUI,x,y\n5\n"
    found = read(tmp_path, "t.csv", content, audio=tmp_path / "sounds")
    assert found == [
        Clip(
            id="-0DdlOuIFUI_30", audio=str(tmp_path / "sounds" / "-0DdlOuIFUI_30.wav"), captions=["rain"], split="all",
            start=found[0].start, end=found[0].end, source="youtube:-0DdlOuIFUI",
        ),
        BadSample(
            f"{tmp_path / 't.csv'}:3", "'wJVRW8UM' is neither a YouTube id (11 characters) nor a Flickr id (digits)"
        ),
        BadSample(f"{tmp_path / 't.csv'}:4", "'x' is no number of seconds"),
        BadSample(f"{tmp_path / 't.csv'}:5", "has 1 cells instead of 3"),
    ]  # fmt: skip


def test_autorecap(tmp_path):
    line = {"fLwkxZ-_LBE": {"intervals": [{"start": 1.5, "end": 4, "text": "a dog"}, {"start": 9, "end": 12}]}}
    found = read(tmp_path, "list.json", json.dumps(line) + ",\n" + json.dumps({"id": "x"}) + "\n")
    assert [(c.id, c.captions, c.start, c.end) for c in found[:2]] == [
        ("fLwkxZ-_LBE_1.5", ["a dog"], 1.5, 4.0), ("fLwkxZ-_LBE_9", [], 9.0, 12.0)
    ]  # fmt: skip
    assert found[2].key == f"{tmp_path / 'list.json'}:2"


def test_files_named_as_autorecap_cuts_them(tmp_path):
    soundfile.write(tmp_path / "fLwkxZ-_LBE_001.wav", tone(300), 16_000)
    line = {"fLwkxZ-_LBE": {"intervals": [{"start": 1.5, "end": 4}, {"start": 9, "end": 12}]}}
    first, second = read(tmp_path, "list.json", json.dumps(line), audio=tmp_path)
    assert first == BadSample("fLwkxZ-_LBE_1.5", f"no file for video 'fLwkxZ-_LBE' below {tmp_path}")
    assert (second.audio, second.start, second.end) == (str(tmp_path / "fLwkxZ-_LBE_001.wav"), None, None)


def test_ambience_audio_has_no_times(tmp_path):
    content = "id,title,thumbnailUrl,caption\nvv_OXBHrgDQ,Pond,https://i.ytimg.com/x.jpg,frogs\n"
    assert read(tmp_path, "train.csv", content) == [
        Clip(
            id="vv_OXBHrgDQ", audio="vv_OXBHrgDQ", captions=["frogs"], split="all", title="Pond",
            source="youtube:vv_OXBHrgDQ",
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "times"),
    [("5,,", (5.0, 15.0)), ("5,8,", (5.0, 8.0)), ("5,,2.5", (5.0, 7.5)), (",8,", (0.0, 8.0)), (",,", (None, None))],
)
def test_how_long_a_clip_is(tmp_path, row, times):
    (clip,) = read(tmp_path, "t.csv", f"id,start,end,duration\nvv_OXBHrgDQ,{row}\n")
    assert (clip.start, clip.end) == times


def test_what_stands_for_an_id(tmp_path):
    urls = [
        "https://www.youtube.com/watch?t=5&v=vv_OXBHrgDQ", "https://youtu.be/vv_OXBHrgDQ?si=1",
        "http://www.flickr.com/photos/8623220@N02/12345678901/", "12345678901", "https://x.org/a",
    ]  # fmt: skip
    found = read(tmp_path, "t.csv", "url\n" + "\n".join(urls) + "\n")
    assert [one.source for one in found[:4]] == ["youtube:vv_OXBHrgDQ"] * 2 + ["flickr:12345678901"] * 2
    assert found[4].reason.startswith("'https://x.org/a' is neither")


def test_columns_that_the_user_names(tmp_path):
    content = "yt;from;len;what;part\nvv_OXBHrgDQ;1;2;x;train\nvv_OXBHrgDQ;3;2;y;test\n"
    names = {"id": "yt", "start": "from", "duration": "len", "caption": "what", "split": "part"}
    (clip,) = read(tmp_path, "t.csv", content, of="test", **names)
    assert (clip.id, clip.start, clip.end, clip.captions) == ("vv_OXBHrgDQ_3", 3.0, 5.0, ["y"])
    with pytest.raises(DataError, match=r"has no column of video ids; its columns are 'yt', 'from'"):
        read(tmp_path, "t.csv", content)
    with pytest.raises(DataError, match="has no column 'who'"):
        read(tmp_path, "t.csv", content, **names | {"title": "who"})
