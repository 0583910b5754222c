"""Records of a json file, one at a time."""

import json
import tracemalloc

import pytest

from atr.datasets import json_records
from atr.datasets.json_records import read_records
from atr.errors import DataError
from atr.types import BadSample


@pytest.fixture(params=[1, 7, 1 << 20])
def chunk(request, monkeypatch):
    """Bytes read at a time; the file must read alike however it is cut."""
    monkeypatch.setattr(json_records, "CHUNK", request.param)


def test_records_and_where_they_stand(tmp_path, chunk):
    path = tmp_path / "a.json"
    path.write_text(
        '{"count": -1.5e+3, "other": [{"data": 0}],\n "data": [ {"é": "ü😀"} ,\n{"b": [1, {}]}], "more": 1}'
    )
    assert list(read_records(path)) == [(f"{path}: byte 54", {"é": "ü😀"}), (f"{path}: byte 73", {"b": [1, {}]})]
    path.write_text('\ufeff[{"a": 12345}]')
    assert list(read_records(path)) == [(f"{path}: byte 4", {"a": 12345})]
    path.write_text('{"data": []}')
    assert list(read_records(path)) == []


def test_what_is_no_object_is_named(tmp_path, chunk):
    path = tmp_path / "a.json"
    path.write_bytes(b'[1, {"a": "\\ud83d\\ude00"}, [2], {"a": "\xff"}, {"a": "\\ud800"}, null, 123]')
    form = "is a {}, not an object with the fields of a clip"
    unicode = "holds text that is no Unicode; the file should be UTF-8"
    assert list(read_records(path)) == [
        BadSample(f"{path}: byte 1", form.format("int")),
        (f"{path}: byte 4", {"a": "😀"}),
        BadSample(f"{path}: byte 27", form.format("list")),
        BadSample(f"{path}: byte 32", unicode),
        BadSample(f"{path}: byte 44", unicode),
        BadSample(f"{path}: byte 61", form.format("NoneType")),
        BadSample(f"{path}: byte 67", form.format("int")),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "byte 0: a list or an object should stand here, but the end of the file does"),
        ("id,caption", "byte 0: a list or an object should stand here, but 'i' does"),
        ('{"a": 1, "b": 2}', "has no list 'data'; its keys are 'a', 'b'"),
        ('{"data": {}}', "byte 9: the list of 'data' should stand here, but '{' does"),
        ('[{"a": 1} {"b": 2}]', "byte 10: a comma or the end of the list should stand here, but '{' does"),
        ('[{"a": 1}, {"b": "cut of', r"byte 17: is no JSON .*; repair the file or fetch it again"),
        ('[{"a": 1}', "byte 9: a comma or the end of the list should stand here, but the end of the file does"),
        ("[" * 100_000, r"byte 1: is no JSON .*recursion"),
    ],
)
def test_what_is_no_json_is_named_with_its_byte(tmp_path, chunk, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"a\.json: {message}"):
        list(read_records(path))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        list(read_records(tmp_path))


def test_damage_does_not_pull_the_file_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_records, "CHUNK", 1 << 10)
    monkeypatch.setattr(json_records, "LONGEST_RECORD", 1 << 14)
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}, {"a" 2}' + ', {"a": 1}' * 1_000_000)
    tracemalloc.start()
    with pytest.raises(DataError, match="byte 16: is no JSON"):
        list(read_records(path))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_large_file_is_not_held(tmp_path):
    path = tmp_path / "a.json"
    record = {"id": "1", "caption": "a dog barks " * 20}
    path.write_text(json.dumps({"data": [record] * 40_000}))
    assert path.stat().st_size > 10_000_000
    tracemalloc.start()
    assert sum(1 for _ in read_records(path)) == 40_000
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()
