"""Places, listings, small files, commands, and what messages say."""

import json
import logging
import random
import threading
from types import SimpleNamespace

import fsspec
import pytest

from atr.errors import DataError
from atr.shards import remote, transfer
from atr.shards.remote import fetch_small, is_remote, list_remote
from atr.shards.transfer import shown
from tests.shards.server import Server


@pytest.fixture
def server():
    running = Server()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were asked for; none is made."""
    asked: list[float] = []

    def sleep(seconds):
        if threading.current_thread() is threading.main_thread():  # others prefetch for an earlier test
            asked.append(seconds)

    monkeypatch.setattr(transfer, "time", SimpleNamespace(sleep=sleep))
    return asked


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("https://h/0.tar", True),
        ("s3://b/p", True),
        ("pipe:cat 0.tar", True),
        ("data/esc10", False),
        ("/a/b.tar", False),
    ],
)
def test_a_place_is_remote_when_it_is_a_url_or_a_command(place, expected):
    assert is_remote(place) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:secret@h/0.tar?X-Signature=secret", "https://h/0.tar"),
        ("https://secret@h:8080/0.tar#secret", "https://h:8080/0.tar"),
        ("s3://KEY:sec/ret@bucket/0.tar", "s3://bucket/0.tar"),
        ("https://h:8080/a@b/0.tar", "https://h:8080/a@b/0.tar"),
        ("simplecache::https://me:secret@h/0.tar", "simplecache::https://h/0.tar"),
        ("URL('http://me:secret@h/?secret=1') and http://x/?secret", "URL('http://h/ and http://x/"),
        ("pipe:curl -H 'Token: secret' https://me:secret@h/0.tar", "pipe:curl … … … https://h/0.tar"),
        ("pipe:cat /data/0.tar", "pipe:cat /data/0.tar"),
    ],
)  # fmt: skip
def test_messages_show_no_secrets(text, expected):
    assert shown(text) == expected


def test_braces_name_many_shards():
    assert list_remote("https://h/p/{00009..00011}.tar?sig=1") == [
        f"https://h/p/000{n}.tar?sig=1" for n in ("09", "10", "11")
    ]
    assert list_remote("s3://b/one.tar") == ["s3://b/one.tar"]
    assert list_remote("pipe:cat /x/{a,b}.tar") == ["pipe:cat /x/a.tar", "pipe:cat /x/b.tar"]
    with pytest.raises(DataError, match=r"https://h/\{0\.\.9\.tar: the braces do not match; write e\.g\."):
        list_remote("https://u:p@h/{0..9.tar")


@pytest.mark.parametrize("end", ["", "/", "?token=secret"])
def test_sizes_json_lists_the_tars_of_a_folder(server, end):
    server.files["f/sizes.json"] = json.dumps({"1.tar": 512, "0.tar": 3}).encode()
    query = "?token=secret" if "?" in end else ""
    assert list_remote(f"{server.url}/plain/f{end}") == [f"{server.url}/plain/f/{n}.tar{query}" for n in (0, 1)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not json"),
        (b'["0.tar"]', "holds a list; allowed is"),
        (b'{"../0.tar": 1}', r"names '\.\./0\.tar'; allowed are plain names"),
        (b'{"a/0.tar": 1}', "names 'a/0.tar'"),
        (b'{"a%2F0.tar": 1}', "names 'a%2F0.tar'"),
        (b'{"..tar": 1}', "names"),
        (b'{"0.zip": 1}', "names '0.zip'"),
        (b"{}", r"holds no \.tar; name a tar"),
    ],
)
def test_a_wrong_sizes_json_is_refused(server, content, message):
    server.files["f/sizes.json"] = content
    with pytest.raises(DataError, match=message) as caught:
        list_remote(f"{server.url}/plain/f?token=secret")
    assert f"{server.url}/plain/f/" in str(caught.value) and "secret" not in str(caught.value)


def test_a_folder_without_sizes_json_is_listed(server, tmp_path):
    links = " ".join(f'<a href="{name}">x</a>' for name in ("1.tar", "../9.tar", "sub/8.tar", "0.tar", "n.txt"))
    server.files["f/"] = links.encode()
    assert list_remote(f"{server.url}/plain/f/") == [f"{server.url}/plain/f/{n}.tar" for n in (0, 1)]

    memory = fsspec.filesystem("memory")
    for name in ("b.tar", "a.tar", "c.txt", "sub/d.tar"):
        memory.pipe_file(f"/listed/{name}", b"x")
    assert list_remote("memory://listed") == ["memory://listed/a.tar", "memory://listed/b.tar"]
    memory.rm("/listed", recursive=True)

    (tmp_path / "0.tar").write_bytes(b"x")
    assert list_remote(f"file://{tmp_path}") == [f"file://{tmp_path}/0.tar"]


def test_a_folder_that_is_not_there_is_reported(server, pauses, tmp_path):
    with pytest.raises(DataError, match=r"nothing/ cannot be fetched: not found .*check the URL and your access"):
        list_remote(f"{server.url}/plain/nothing?secret")
    with pytest.raises(DataError, match=r"cannot be fetched: not found"):
        list_remote(f"file://{tmp_path}/nothing")
    assert pauses == []


def test_small_files_may_be_missing(server, pauses):
    server.files["i.json"] = b"[1]"
    assert fetch_small(f"{server.url}/plain/i.json") == b"[1]"
    assert fetch_small(f"{server.url}/flaky/i.json") == b"[1]" and len(pauses) == 2
    assert fetch_small(f"{server.url}/plain/other.json") is None
    assert fetch_small(f"{server.url}/403/i.json") is None
    assert fetch_small("memory://nothing.json") is None
    assert fetch_small("pipe:cat x.tar") is None
    with pytest.raises(DataError, match=r"/503/i\.json cannot be fetched: the server answered 503 .*attempt 5 of 5"):
        fetch_small(f"{server.url}/503/i.json")


def test_small_files_are_bounded(server, monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "SMALL_FILE", 10)
    server.files["i.json"] = bytes(11)
    (tmp_path / "i.json").write_bytes(bytes(11))
    for url in (f"{server.url}/plain/i.json", f"{server.url}/unknown/i.json", f"file://{tmp_path}/i.json"):
        assert fetch_small(url) is None
    monkeypatch.setattr(remote, "SMALL_FILE", 11)
    assert fetch_small(url) == bytes(11)


@pytest.mark.parametrize("command", ["cat a.tar | gzip", "cat a.tar > b", "a; b", "a && b", "cat $(ls)", "cat `ls`"])
def test_commands_that_need_a_shell_are_refused(command):
    with pytest.raises(DataError, match="run without a shell; put what needs one into a script"):
        list_remote(f"pipe:{command}")


def test_commands_that_cannot_be_split_are_refused():
    with pytest.raises(DataError, match="check its quotes"):
        list_remote("pipe:cat 'a.tar")
    with pytest.raises(DataError, match="names no command"):
        list_remote("pipe:")


def test_pauses_double_with_jitter_and_leave_the_seeded_generators_alone(server, pauses):
    state = random.getstate()
    with pytest.raises(DataError):
        fetch_small(f"{server.url}/500/x")
    assert server.requests["/500/x"] == transfer.ATTEMPTS == len(pauses) + 1
    assert all(0.25 * 2**n <= pause <= 0.5 * 2**n for n, pause in enumerate(pauses))
    assert random.getstate() == state
    pauses.clear()
    transfer._pause(40)
    assert 15 <= pauses[0] <= 30


def test_no_secret_in_messages_logs_or_chained_errors(server, pauses, caplog):
    caplog.set_level(logging.INFO)
    signed = server.url.replace("http://", "http://me:hidden@")
    for url in (
        f"{signed}/500/x?sig=hidden",
        f"{signed}/401/x?sig=hidden",
        "http://me:hidden@127.0.0.1:1/x?sig=hidden",
    ):
        with pytest.raises(DataError) as caught:
            fetch_small(url)
        assert "hidden" not in str(caught.value) and "/x cannot be fetched" in str(caught.value)
        assert caught.value.__context__ is None and caught.value.__cause__ is None
    assert "hidden" not in caplog.text


def test_an_unknown_scheme_and_a_missing_package_are_named(pauses, monkeypatch):
    with pytest.raises(DataError, match=r"nothing://x/0\.json cannot be fetched: ValueError: Protocol not known"):
        fetch_small("nothing://x/0.json")

    def missing(*arguments, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(transfer.fsspec.core, "url_to_fs", missing)
    with pytest.raises(DataError, match=r"a package is missing \(Install s3fs.*pip install atr\[data\]"):
        fetch_small("s3://b/0.json")
    assert pauses == []
