"""Manifests: what is written comes back, and what is no clip is named by file and line."""

import json
import os

import pytest

from atr.datasets import manifest
from atr.datasets.manifest import as_line, from_metadata, read_clips, read_manifest, write_manifest
from atr.errors import DataError
from atr.shards.write import write_shards
from atr.types import BadSample, Clip
from tests.conftest import make_clips

FULL = Clip(
    id="a b/ä–1", audio="sounds/ü.flac", captions=["Ein Hund bellt, dann 雨", 'it\'s "loud"\u2028next'],
    labels=["dog", "rain"],
    split="train", title="t", duration=10.0, sample_rate=48_000, start=0.0, end=10.0, events=[("bark", 0.0, 1.25)],
    questions=[("what?", "a dog 🐕")], source="youtube:r1nicOVtvkQ", dataset="Mine", licence="CC0",
)  # fmt: skip
BARE = Clip(id="b", audio="b.wav")


def lines(tmp_path, *rows, head=b""):
    path = tmp_path / "clips.jsonl"
    path.write_bytes(head + b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows))
    return path


def test_all_fields_come_back(tmp_path):
    write_manifest([FULL, BARE], tmp_path / "clips.jsonl")
    assert list(read_manifest(tmp_path / "clips.jsonl")) == [FULL, BARE]
    assert list(read_clips(tmp_path / "clips.jsonl")) == [FULL, BARE]
    first, second = (tmp_path / "clips.jsonl").read_text(encoding="utf-8").split("\n")[:2]
    assert "雨" in first and json.loads(second) == {"id": "b", "audio": "b.wav"}
    assert [path.name for path in tmp_path.iterdir()] == ["clips.jsonl"]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("captions", "a dog", "a list of texts"),
        ("captions", None, "a list of texts"),
        ("labels", ["dog", 3], "a list of texts"),
        ("split", 1, "a text"),
        ("title", None, "a text"),
        ("source", ["youtube:x"], "a text"),
        ("dataset", {}, "a text"),
        ("licence", False, "a text"),
        ("duration", "10", "seconds, 0 or more, or null"),
        ("duration", -1, "seconds, 0 or more, or null"),
        ("start", True, "seconds, 0 or more, or null"),
        ("end", 1e300, "seconds, 0 or more, or null"),
        ("end", 10**400, "seconds, 0 or more, or null"),
        ("sample_rate", 44100.0, "a whole number of Hz above 0, or null"),
        ("sample_rate", 0, "a whole number of Hz above 0, or null"),
        ("sample_rate", True, "a whole number of Hz above 0, or null"),
        ("events", [["bark", 0]], r"a list of \[caption, onset, offset\]"),
        ("events", [["bark", 0, True]], r"a list of \[caption, onset, offset\]"),
        ("events", [["bark", -1, 2]], r"a list of \[caption, onset, offset\]"),
        ("questions", [["what?", None]], r"a list of \[question, answer\]"),
        ("questions", "what?", r"a list of \[question, answer\]"),
    ],
)
def test_a_wrong_type_is_named(tmp_path, field, value, allowed):
    path = lines(tmp_path, {"id": "a", "audio": "a.wav"}, {"id": "b", "audio": "b.wav", field: value})
    with pytest.raises(DataError, match=f"clips.jsonl:2: {field} is .*; allowed is {allowed}"):
        list(read_manifest(path))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "b", "audio": "b.wav", "caption": "x"}, "unknown field 'caption'; a clip has id, audio, captions"),
        ({"id": "b"}, "needs audio, as text"),
        ({"id": 7, "audio": ""}, "needs id and audio, as text"),
        ([1], "is a list, not an object"),
        (b"{", "is no JSON"),
        (b'{"id": "b", "audio": "b.wav", "duration": NaN}', r"is no JSON in UTF-8 \(NaN"),
        (b'{"id": "b", "audio": "b.wav", "events": [["x", 0, -Infinity]]}', "-Infinity is no number"),
        (b'{"id": "b", "audio": "b.wav", "duration": 1e999}', "duration is inf"),
        (b'{"id": "b", "audio": "b.wav", "captions": ["\\ud800"]}', r"captions is \['\\ud800'\]"),
        (b'{"id": "\\udfff", "audio": "b.wav"}', "id is"),
        (b'{"id": "\xff", "audio": "b.wav"}', "is no JSON in UTF-8"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"id": "b", "audio": "b.wav", "duration": ' + b"9" * 5000 + b"}", "clips.jsonl:4: "),
    ],
)
def test_a_line_that_is_no_clip_is_named(tmp_path, row, message):
    path = lines(tmp_path, {"id": "a", "audio": "a.wav"}, b"", b"  ", row, {"id": "c", "audio": "c.wav"})
    with pytest.raises(DataError, match=f"clips.jsonl:4: .*{message}" if "4" not in message else message):
        list(read_manifest(path))
    bad: list[BadSample] = []
    assert [clip.id for clip in read_manifest(path, bad)] == ["a", "c"]
    assert [one.key for one in bad] == [f"{path}:4"] and not bad[0].reason.startswith(str(path))


def test_a_byte_order_mark_and_blank_lines_are_skipped(tmp_path):
    path = lines(tmp_path, b"", {"id": "a", "audio": "a.wav"}, b"\r", b"", head=b"\xef\xbb\xbf")
    assert [clip.id for clip in read_manifest(path)] == ["a"]
    assert next(read_manifest(lines(tmp_path, {"id": "a", "audio": "a"}, head=b"\xef\xbb\xbf"))).id == "a"
    assert list(read_manifest(lines(tmp_path))) == []


def test_an_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "LONGEST_LINE", 1000)
    long = {"id": "b", "audio": "b.wav", "title": "x" * 900}
    assert len(list(read_manifest(lines(tmp_path, long)))) == 1
    with pytest.raises(DataError, match=r"clips.jsonl:2: is longer than 1000 bytes"):
        list(read_manifest(lines(tmp_path, long, long | {"title": "x" * 1000})))


def test_a_long_value_is_cut_in_the_message(tmp_path):
    with pytest.raises(DataError) as error:
        list(read_manifest(lines(tmp_path, {"id": "b", "audio": "b.wav", "split": ["x" * 9000]})))
    assert len(str(error.value)) < 400


def test_no_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.jsonl: cannot be read \(No such file"):
        list(read_clips(tmp_path / "gone.jsonl"))


@pytest.mark.parametrize("broken", [Clip(id="x", audio="x", title="\ud800"), Clip(id="x", audio="x", end=float("nan"))])
def test_a_clip_that_no_file_can_hold_is_named_and_nothing_is_written(tmp_path, broken):
    path = tmp_path / "clips.jsonl"
    write_manifest([BARE], path)
    with pytest.raises(DataError, match="clip 'x' cannot be written"):
        write_manifest([FULL, broken], path)
    assert list(read_manifest(path)) == [BARE] and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(DataError):
        as_line(broken)


@pytest.mark.parametrize("failing", ["fsync", "clips"])
def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "clips.jsonl"
    write_manifest([BARE], path)

    def full(_):
        raise OSError(28, "No space left on device")

    def clips():
        yield FULL
        if failing == "clips":
            raise KeyboardInterrupt

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError if failing == "fsync" else KeyboardInterrupt):
        write_manifest(clips(), path)
    assert list(read_manifest(path)) == [BARE] and [one.name for one in tmp_path.iterdir()] == ["clips.jsonl"]


def test_clips_of_our_shards(tmp_path):
    clips = make_clips(tmp_path / "sounds", 3)
    write_shards(clips, tmp_path / "shards", codec="flac")
    first, *_, last = read_clips(tmp_path / "shards")
    assert first == Clip(
        id="note00", audio="note00.wav", captions=["a do note", "the do tone rings"], labels=["low_note"], title="do",
        source="source0", duration=1.0, sample_rate=16_000,
    )  # fmt: skip
    assert (last.id, last.duration) == ("note02", 1.1)
    assert next(read_clips(tmp_path / "shards" / "00000.tar")) == first


def test_the_json_of_others():
    laion = {"text": "a dog barks", "tag": "dog", "original_data": {"title": 3}, "title": None, "id": 12}
    assert from_metadata(laion, "x/0.tar:7") == Clip(id="7", audio="7", captions=["a dog barks"], labels=["dog"])
    assert from_metadata({}, "x/0.tar:a/7") == Clip(id="a/7", audio="7")
    assert from_metadata({"text": [" a ", ""], "file": "../../etc/x.wav"}, "0.tar:7").audio == "x.wav"
    for meta, message in [({"text": {"a": 1}}, "`text` of type dict"), ({"tag": 5}, "`tag` of type int"),
                          ({"duration": "5"}, "duration is '5'"), ({"events": 3}, "events is 3")]:  # fmt: skip
        with pytest.raises(DataError, match=f"x/0.tar:7: .*{message}"):
            from_metadata(meta, "x/0.tar:7")


def test_a_sample_whose_json_is_no_clips_is_listed(tmp_path):
    import io
    import tarfile

    folder = tmp_path / "laion"
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, content in (("0", b'{"text": "rain"}'), ("1", b"{"), ("2", b'{"text": 5}'), ("3", b'{"text": ["x"]}')):
            info = tarfile.TarInfo(f"{key}.json")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    bad: list[BadSample] = []
    assert [(clip.id, clip.captions) for clip in read_clips(folder, bad)] == [("0", ["rain"]), ("3", ["x"])]
    assert [one.key for one in bad] == [f"{folder}/0.tar:1", f"{folder}/0.tar:2"]
    with pytest.raises(DataError, match=r"0.tar:1: its json cannot be read"):
        list(read_clips(folder))
