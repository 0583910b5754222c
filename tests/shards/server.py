"""A local web server that misbehaves on demand. The first part of a path chooses how: /plain/a.tar, /drop/a.tar."""

import gzip
import http.server
import threading
import time
from collections import Counter


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (name -> bytes) and counts the requests of each path."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.headers: dict[str, str] = {}  # of the last request
        self.served = 0  # bodies that are broken off by /drop: every third
        self.guard = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # a client that goes away is part of the tests


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.send_error(405)  # as signed URLs do, which are made for GET

    def do_GET(self):
        path = self.path.partition("?")[0]
        mode, name = path.lstrip("/").split("/", 1)
        with self.server.guard:
            self.server.requests[path] += 1
            self.server.headers = dict(self.headers)
            self.server.served += 1
            count, served = self.server.requests[path], self.server.served
        if mode == "flaky" and count <= 2:
            return self.send_error(500)
        if mode.isdigit():
            return self.send_error(int(mode), f"no {self.path}")
        if name not in self.server.files:
            return self.send_error(404)
        body = self.server.files[name]
        length: int | None = len(body)
        if mode == "gzip":
            body = gzip.compress(body)
            length = len(body)
        elif mode == "short" or (mode == "drop" and served % 3 == 0):
            body = body[: len(body) // 2]
        elif mode == "long":  # announces less than it sends
            length = len(body) // 2
        elif mode == "unknown":
            length = None
        self.send_response(200)
        if mode == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", "text/html" if name.endswith("/") else "application/x-tar")
        if length is not None:
            self.send_header("Content-Length", str(length))
        if length != len(body):
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        step = 2000 if mode == "slow" else 1 << 20
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            if mode == "slow":
                self.wfile.flush()
                time.sleep(0.05)
