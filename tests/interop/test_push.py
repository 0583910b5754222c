"""`--push`: a hub on this machine gets every file; what is missing is told, and never the token."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from atr.errors import UsageError
from atr.interop.export import export
from atr.interop.push import check_push

TOKEN = "hf_secretsecretsecret"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a commit of small files needs."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, str]]] = []
    files: ClassVar[dict[str, bytes]] = {}
    refuse = False

    def do_POST(self):
        size = self.headers.get("content-length")
        body = self.rfile.read(int(size)) if size else b"".join(self.chunks())
        self.asked.append((self.path, self.headers.get("authorization", "")))
        if self.refuse:
            return self.answer({"error": "forbidden"}, 403)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            assert asked["private"] is True
            return self.answer({"url": f"http://hub/{asked['organization']}/{asked['name']}"})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        assert self.path.endswith("/commit/main"), self.path
        for line in body.splitlines():
            part = json.loads(line)
            if part["key"] == "file":
                self.files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
        return self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": "http://hub/org/name/commit/0"})

    def do_GET(self):
        self.answer({"error": "not there"}, 404)

    def chunks(self):
        while length := int(self.rfile.readline(), 16):
            yield self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    Hub.asked, Hub.files, Hub.refuse = [], {}, False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def upload(path, out, home, address, token=TOKEN):
    """`atr export … --push`, as a user types it, with this hub."""
    environment = dict(os.environ, HF_ENDPOINT=address, HF_HUB_OFFLINE="0", HF_HOME=str(home), HF_HUB_DISABLE_XET="1")
    environment |= {"HF_TOKEN": token} if token else {}
    if not token:
        environment.pop("HF_TOKEN", None)
    command = [sys.executable, "-m", "atr", "export", str(path), str(out), "--push", "org/name"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_every_file_reaches_the_hub(make, tmp_path, hub):
    done = upload(make(), tmp_path / "out", tmp_path, hub)
    assert done.returncode == 0, done.stderr
    assert "uploaded    http://hub/org/name" in done.stdout
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == Hub.files
    assert 'model="org/name"' in Hub.files["README.md"].decode()
    assert {sent for _, sent in Hub.asked} == {f"Bearer {TOKEN}"} and TOKEN not in done.stdout + done.stderr


def test_a_hub_that_refuses_leaves_the_folder_and_hides_the_token(make, tmp_path, hub):
    Hub.refuse = True
    done = upload(make(), tmp_path / "out", tmp_path, hub)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "is complete, but was not uploaded to org/name (HTTP status 403)" in done.stderr.replace("\n", " ")
    assert f"hf upload org/name {tmp_path / 'out'}" in done.stderr and TOKEN not in done.stderr + done.stdout
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_without_a_token_nothing_is_written(make, tmp_path, hub):
    done = upload(make(), tmp_path / "out", tmp_path, hub, token="")
    assert done.returncode == 2 and "Run `hf auth login`, or set HF_TOKEN" in done.stderr
    assert not (tmp_path / "out").exists() and Hub.asked == []


@pytest.mark.slow  # huggingface_hub tries again for some seconds
def test_without_a_network_the_folder_stays(make, tmp_path):
    done = upload(make(), tmp_path / "out", tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 1 and "was not uploaded to org/name (ConnectError" in done.stderr
    assert (tmp_path / "out" / "config.json").is_file() and TOKEN not in done.stderr + done.stdout


def test_a_name_that_is_none_is_refused_before_anything_is_read(tmp_path):
    for name in ("name", "a/b/c", "org/na me"):
        with pytest.raises(UsageError, match="allowed is ORG/NAME"):
            check_push(name)
    with pytest.raises(UsageError, match="allowed is ORG/NAME"):
        export(tmp_path / "gone.ckpt", tmp_path / "out", repository="name")
