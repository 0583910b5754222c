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
    created: ClassVar[list[dict]] = []
    refuse = False

    def do_POST(self):
        size = self.headers.get("content-length")
        body = self.rfile.read(int(size)) if size else b"".join(self.chunks())
        self.asked.append((self.path, self.headers.get("authorization", "")))
        if self.refuse:
            return self.answer({"error": "forbidden"}, 403)
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            return self.answer({"url": f"http://{self.headers['host']}/org/name"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
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
        return self.answer(
            {"success": True, "commitOid": "0" * 40, "commitUrl": f"http://{self.headers['host']}/org/name/commit/0"}
        )

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
    Hub.asked, Hub.files, Hub.created, Hub.refuse = [], {}, [], False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


PUSH = """
import sys
from pathlib import Path
from atr.errors import AtrError
from atr.interop.push import check_push, push
try:
    check_push("org/name")
    print(push(Path(sys.argv[1]), "org/name"))
except AtrError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("---\nlicense: unknown\n---\n# out\n")
    (tmp_path / "out" / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    return tmp_path / "out"


def upload(folder, address, token=TOKEN):
    """Uploads to this hub, in a process whose huggingface_hub knows no other."""
    environment = dict(os.environ, HF_ENDPOINT=address, HF_HUB_OFFLINE="0", HF_HOME=str(folder.parent))
    environment |= {"HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", PUSH, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_every_file_reaches_the_hub(folder, hub):
    done = upload(folder, hub)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub}/org/name"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == Hub.files
    assert [repository.get("private", repository.get("visibility")) for repository in Hub.created] in (
        [True],
        ["private"],
    )
    assert {sent for path, sent in Hub.asked if path != "/api/validate-yaml"} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stdout + done.stderr


def test_a_hub_that_refuses_leaves_the_folder_and_hides_the_token(folder, hub):
    Hub.refuse = True
    done = upload(folder, hub)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{folder} is complete, but was not uploaded to org/name (HTTP status 403)" in done.stderr
    assert f"hf upload org/name {folder}" in done.stderr and TOKEN not in done.stderr + done.stdout
    assert (folder / "model.safetensors").is_file()


def test_without_a_token_the_hub_is_not_asked(folder, hub):
    done = upload(folder, hub, token="")
    assert (
        done.returncode == 1 and "UsageError" in done.stderr and "Run `hf auth login`, or set HF_TOKEN" in done.stderr
    )
    assert Hub.asked == []


@pytest.mark.slow  # huggingface_hub tries again for some seconds
def test_without_a_network_the_folder_stays(folder):
    done = upload(folder, "http://127.0.0.1:9")
    assert done.returncode == 1 and "was not uploaded to org/name (ConnectError" in done.stderr
    assert (folder / "README.md").is_file() and TOKEN not in done.stderr + done.stdout


def test_a_name_that_is_none_is_refused_before_anything_is_read(tmp_path):
    for name in ("name", "a/b/c", "org/na me"):
        with pytest.raises(UsageError, match="allowed is ORG/NAME"):
            check_push(name)
    with pytest.raises(UsageError, match="allowed is ORG/NAME"):
        export(tmp_path / "gone.ckpt", tmp_path / "out", repository="name")


def test_export_uploads_what_it_has_verified(make, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    sent = {}

    def record(folder, repository):
        sent[repository] = sorted(path.name for path in folder.iterdir())
        return "https://hub/org/name"

    monkeypatch.setattr("atr.interop.export.push", record)
    assert export(make(), tmp_path / "out", repository="org/name").address == "https://hub/org/name"
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= set(
        sent["org/name"]
    )
    assert 'model="org/name"' in (tmp_path / "out" / "README.md").read_text()
