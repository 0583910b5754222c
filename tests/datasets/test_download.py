"""Downloads from a local server that breaks off, ignores ranges and changes its files."""

import errno
import hashlib
import http.server
import io
import json
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest

import atr.datasets.download as module
from atr.datasets.corpus import Card, Download
from atr.datasets.download import download
from atr.errors import DataError, UsageError
from atr.shards import transfer

BODY = bytes(range(256)) * 8192 * 3  # 6 MiB
MD5, SHA256 = hashlib.md5(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """/FLAGS/name: c breaks off in the middle, r ignores ranges, e sends no ETag, s is slow, h is a web page."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        _, flags, name = self.path.split("/", 2)
        server.asked.append(self.headers.get("Range"))
        server.count[name] += 1
        if flags.isdigit():
            return self.send_error(int(flags))
        if flags == "ftp":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/x")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = server.files[name]
        etag, start = f'"{hashlib.md5(body).hexdigest()}"', 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and "r" not in flags and self.headers.get("If-Range", etag) == etag:
            start = int(asked[1])
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if "e" not in flags:
            self.send_header("ETag", etag)
        if "h" in flags:
            self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + server.cut if "c" in flags else len(body)
        for at in range(start, min(end, len(body)), 1 << 16):
            self.wfile.write(body[at : min(at + (1 << 16), end)])
            if "s" in flags:
                time.sleep(0.02)
        server.sent += min(end, len(body)) - start
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.001)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files, server.asked, server.count, server.sent, server.cut = {"a.bin": BODY}, [], Counter(), 0, 2 << 20
    server.handle_error = lambda *arguments: None
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def card(server, flags="p", name="a.bin", **fields):
    one = Download(url=f"{server.url}/{flags}/{name}", path=name, **fields)
    return Card(name="X", homepage="http://x", licence="", splits=(), captions="", citation="", downloads=(one,))


def test_a_whole_file_is_fetched_once(server, tmp_path):
    root = tmp_path / "new" / "root"
    for _ in range(2):
        assert download(card(server, checksum=f"md5:{MD5.upper()}", size=len(BODY)), root) == [root / "a.bin"]
    assert (root / "a.bin").read_bytes() == BODY and server.count["a.bin"] == 1
    entry = json.loads((root / "downloads.json").read_text())["a.bin"]
    assert (entry["md5"], entry["size"]) == (MD5, len(BODY))
    assert not list(root.glob("*.part"))


def test_transfers_that_are_broken_off_go_on(server, tmp_path):
    download(card(server, "c"), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert server.asked == [None, f"bytes={2 << 20}-", f"bytes={4 << 20}-"] and server.sent == len(BODY)


def test_what_an_earlier_run_left_goes_on(server, tmp_path):
    server.cut = 1 << 18  # too little for going on without a pause
    with pytest.raises(
        DataError, match=r"cannot be fetched: .* bytes came instead of 6291456 \(attempt 5 of 5\); check"
    ):
        download(card(server, "c"), tmp_path)
    assert (tmp_path / "a.bin.part").stat().st_size == 5 << 18
    server.sent = 0
    server.cut = len(BODY)
    download(card(server, "c"), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY and server.sent == len(BODY) - (5 << 18)


def test_a_part_that_is_complete(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY)
    download(card(server, checksum=f"sha256:{SHA256}"), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY and server.sent == 0


def test_a_part_longer_than_the_file_begins_again(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY + b"x")
    download(card(server, checksum=f"sha256:{SHA256}"), tmp_path)
    assert server.asked == [f"bytes={len(BODY) + 1}-", None]


def test_a_server_without_ranges_begins_again(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"begun")
    download(card(server, "r", checksum=f"md5:{MD5}"), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY and server.asked == ["bytes=5-"]


def test_without_anything_to_compare_with_it_begins_again(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"begun")
    download(card(server, "e"), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY and server.asked == [None]


def test_a_file_that_changed_in_between_begins_again(server, tmp_path):
    server.cut = 1 << 18
    with pytest.raises(DataError):
        download(card(server, "c"), tmp_path)
    server.files["a.bin"] = BODY[::-1]
    download(card(server), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY[::-1]


def test_a_wrong_checksum(server, tmp_path):
    with pytest.raises(DataError) as caught:
        download(card(server, checksum="md5:0000"), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'a.bin'}: its MD5 is {MD5} instead of 0000, as published; "
        "it was removed; run again, and tell the publisher if it happens again"
    )
    assert not list(tmp_path.glob("a.bin*"))
    with pytest.raises(DataError, match="has 6291456 bytes instead of 5; the publisher has changed it"):
        download(card(server, size=5), tmp_path)


def test_a_file_that_is_there_and_wrong(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=f"instead of {MD5}, as published; remove it, then it is fetched again"):
        download(card(server, checksum=f"md5:{MD5}"), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"mine" and server.count["a.bin"] == 0


def test_without_a_published_checksum_the_first_one_counts(server, tmp_path):
    download(card(server), tmp_path)
    (tmp_path / "a.bin").write_bytes(b"changed")
    with pytest.raises(DataError, match=f"instead of {SHA256}, as .*downloads.json has it from the first time; remove"):
        download(card(server), tmp_path)
    (tmp_path / "a.bin").unlink()
    server.files["a.bin"] = b"another"
    with pytest.raises(DataError, match=f"instead of {SHA256}.*it was removed"):
        download(card(server), tmp_path)
    server.files["a.bin"] = BODY
    download(card(server), tmp_path)
    assert server.count["a.bin"] == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("404", r"the server answered 404 Not Found \(attempt 1 of 5\); check the URL and your access"),
        ("503", r"the server answered 503 Service Unavailable \(attempt 5 of 5\); check the network"),
        ("h", "is a web page, not the file; open it in a browser"),
        ("ftp", "cannot be fetched"),
    ],
)
def test_answers_that_are_no_file(server, tmp_path, flags, message):
    with pytest.raises(DataError, match=message):
        download(card(server, flags), tmp_path)
    assert not (tmp_path / "a.bin").exists()


def test_only_http(tmp_path):
    one = Download(url=f"file://{__file__}", path="x")
    with pytest.raises(DataError, match="only http:// and https:// are fetched"):
        download(Card(**vars(NOTHING) | {"downloads": (one,)}), tmp_path)


NOTHING = Card(name="Videos", homepage="http://v", licence="", splits=(), captions="", citation="")


def test_nothing_to_fetch(tmp_path):
    with pytest.raises(
        UsageError, match=r"Videos: there are no plain files .* http://v .* Ask the authors .* --audio-dir"
    ):
        download(NOTHING, tmp_path)


def test_a_full_disk_keeps_what_came(server, tmp_path, monkeypatch):
    def full(one, part, *rest):
        part.write_bytes(b"12345")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_transfer", full)
    with pytest.raises(DataError, match=r"a\.bin\.part: the disk, or its quota, is full; 5 bytes are kept; free space"):
        download(card(server), tmp_path)
    assert (tmp_path / "a.bin.part").exists()


def test_a_damaged_record_and_a_folder_that_is_in_use(server, tmp_path):
    (tmp_path / "downloads.json").write_text('{"a.bin": 1}')
    with pytest.raises(DataError, match=r"downloads\.json: is damaged; remove it"):
        download(card(server), tmp_path)
    (tmp_path / "downloads.json").unlink()
    with (
        module.FileLock(tmp_path / ".downloads.json.lock"),
        pytest.raises(UsageError, match="another process downloads"),
    ):
        download(card(server), tmp_path)


def test_ctrl_c_leaves_what_came(server, tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.datasets.test_download import NOTHING, Card, Download, download\n"
        "one = Download(url=sys.argv[1], path='a.bin')\n"
        "download(Card(**vars(NOTHING) | {'downloads': (one,)}), Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/s/a.bin", str(tmp_path)])
    part = tmp_path / "a.bin.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(2)
    assert process.wait(30) != 0
    came = part.stat().st_size
    assert 0 < came < len(BODY)
    download(card(server), tmp_path)  # the same file, by its ETag, but from another URL: it begins again
    assert (tmp_path / "a.bin").read_bytes() == BODY


def make_zip(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)
    return content.getvalue()


def test_archives_are_unpacked_once(server, tmp_path):
    server.files["x.zip"] = make_zip(**{"in/a.txt": "A", "b.txt": "B"})
    one = card(server, name="x.zip", unpack=True)
    download(one, tmp_path)
    assert (tmp_path / "in" / "a.txt").read_text() == "A" and (tmp_path / "b.txt").read_text() == "B"
    (tmp_path / "b.txt").unlink()
    assert download(one, tmp_path) == [tmp_path / "x.zip"]
    (tmp_path / "x.zip").unlink()  # to save space
    assert download(one, tmp_path) == [] and not (tmp_path / "b.txt").exists()
    assert server.count["x.zip"] == 1


def test_an_archive_that_is_refused_is_named(server, tmp_path):
    server.files["x.zip"] = make_zip(**{"ok.txt": "x", "../evil.txt": "x"})
    with pytest.raises(DataError, match=r"x\.zip: its member '\.\./evil\.txt' leaves the folder; nothing was unpacked"):
        download(card(server, name="x.zip", unpack=True), tmp_path / "root")
    assert not Path(tmp_path / "evil.txt").exists() and not (tmp_path / "root" / "ok.txt").exists()
