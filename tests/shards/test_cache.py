"""The cache of remote shards against a server that misbehaves."""

import asyncio
import contextlib
import errno
import hashlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import fsspec
import numpy as np
import pytest

from atr.errors import DataError, UsageError
from atr.shards import cache as cache_module
from atr.shards import transfer
from atr.shards.cache import ShardCache
from tests.conftest import ROOT
from tests.shards.server import Server

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server():
    running = Server()
    running.files |= {f"{n}.tar": BODY for n in range(8)}
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def cache(tmp_path):
    return ShardCache(tmp_path / "cache", 10**9)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The attempts after which a pause was asked for; none is made."""
    asked: list[int] = []

    def pause(attempt):
        if threading.current_thread() is threading.main_thread():  # others prefetch for an earlier test
            asked.append(attempt)

    monkeypatch.setattr(transfer, "_pause", pause)
    return asked


def files(cache):
    return sorted(path for path in cache.folder.iterdir() if path.is_file())


def held(cache):
    return sum(path.stat().st_size for path in files(cache))


def test_a_shard_is_fetched_once_and_whole(cache, server):
    path = cache.fetch(f"{server.url}/plain/0.tar")
    assert path.read_bytes() == BODY and path.parent == cache.folder
    assert cache.fetch(f"{server.url}/plain/0.tar") == path
    assert server.requests == {"/plain/0.tar": 1}
    assert server.headers["Accept-Encoding"] == "identity"
    assert files(cache) == [path]


@pytest.mark.parametrize("known", [{}, {"size": len(BODY), "sha256": SHA256.upper()}])
@pytest.mark.parametrize("mode", ["plain", "flaky", "unknown", "gzip"])
def test_shards_of_passing_troubles_arrive(cache, server, mode, known, pauses):
    assert cache.fetch(f"{server.url}/{mode}/0.tar", **known).read_bytes() == BODY
    assert pauses == ([1, 2] if mode == "flaky" else [])


def test_dropped_connections_are_tried_again(cache, server, pauses):
    for number in range(6):
        assert cache.fetch(f"{server.url}/drop/{number}.tar").read_bytes() == BODY
    assert len(pauses) == 2 and server.requests.total() == 8  # every third one is dropped
    assert len(files(cache)) == 6


@pytest.mark.parametrize(
    ("mode", "known", "reason"),
    [
        ("short", {}, "ClientPayloadError"),
        ("short", {"size": len(BODY)}, "ClientPayloadError"),
        ("503", {}, "the server answered 503 Service Unavailable"),
        ("429", {}, "the server answered 429"),
    ],
)
def test_what_never_arrives_whole_is_reported_and_leaves_nothing(cache, server, mode, known, reason, pauses):
    url = f"{server.url}/{mode}/0.tar"
    with pytest.raises(DataError, match=rf"{url} cannot be fetched: {reason}.*attempt 5 of 5.*then run again"):
        cache.fetch(url, **known)
    assert files(cache) == [] and pauses == [1, 2, 3, 4] and server.requests.total() == 5


@pytest.mark.parametrize(
    ("mode", "known", "reason"),
    [
        ("long", {"size": len(BODY)}, "150000 bytes came instead of 300000"),
        ("long", {"sha256": SHA256}, "its SHA-256 is [0-9a-f]{64} instead of"),
        ("plain", {"size": len(BODY) + 1}, "300000 bytes came instead of 300001"),
        ("plain", {"sha256": "0" * 64}, f"its SHA-256 is {SHA256} instead of 0000"),
    ],
)
def test_the_same_wrong_file_twice_is_enough(cache, server, mode, known, reason, pauses):
    with pytest.raises(DataError, match=rf"0\.tar cannot be fetched: {reason}.*attempt 2 of 5"):
        cache.fetch(f"{server.url}/{mode}/0.tar", **known)
    assert files(cache) == [] and pauses == [1] and server.requests.total() == 2


@pytest.mark.parametrize("mode", ["404", "403", "401", "410"])
def test_a_final_answer_is_not_asked_for_again(cache, server, mode, pauses):
    with pytest.raises(
        DataError, match=r"/0\.tar cannot be fetched: .*attempt 1 of 5\); check the URL and your access"
    ):
        cache.fetch(f"{server.url}/{mode}/0.tar")
    assert server.requests.total() == 1 and pauses == [] and files(cache) == []


def test_a_failure_is_remembered_for_a_minute(cache, server, monkeypatch):
    url = f"{server.url}/503/0.tar"
    messages = []
    for _ in range(3):
        with pytest.raises(DataError) as caught:
            cache.fetch(url)
        messages.append(str(caught.value))
    assert len(set(messages)) == 1 and server.requests.total() == 5
    later = time.monotonic() + cache_module.FAILURE_SECONDS
    monkeypatch.setattr(cache_module.time, "monotonic", lambda: later)
    with pytest.raises(DataError):
        cache.fetch(url)
    assert server.requests.total() == 10


def test_nothing_has_a_final_name_before_it_is_whole(cache, server):
    """Watches the folder during a slow download, and during one that breaks."""
    server.files["0.tar"] = BODY[:20_000]
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            for path in cache.folder.glob("*"):
                if path.is_file():
                    with contextlib.suppress(FileNotFoundError):
                        seen.append((path.suffix, path.stat().st_size))
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    cache.fetch(f"{server.url}/slow/0.tar", sha256=hashlib.sha256(BODY[:20_000]).hexdigest())
    with pytest.raises(DataError):
        cache.fetch(f"{server.url}/short/1.tar")
    done.set()
    watcher.join()
    assert {size for suffix, size in seen if suffix == ".tar"} == {20_000}
    assert len({size for suffix, size in seen if suffix == ".part"}) > 2  # it was watched in the making


def test_four_processes_download_a_shard_once(cache, server):
    server.files["0.tar"] = BODY[:20_000]
    code = (
        f"from pathlib import Path; from atr.shards.cache import ShardCache\n"
        f"print(len(ShardCache(Path({str(cache.folder)!r}), 10**9).fetch('{server.url}/slow/0.tar').read_bytes()))"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [worker.communicate(timeout=60)[0] for worker in workers] == ["20000\n"] * 4
    assert server.requests.total() == 1 and len(files(cache)) == 1


def test_the_least_recently_used_shards_make_room(tmp_path, server):
    cache = ShardCache(tmp_path / "cache", 3 * len(BODY))
    urls = [f"{server.url}/plain/{number}.tar" for number in range(5)]
    paths = [cache.fetch(url) for url in urls[:3]]
    with paths[1].open("rb") as reader:
        cache.fetch(urls[0])  # used again: 1 is now the oldest
        cache.fetch(urls[3])
        assert [path.exists() for path in paths] == [True, False, True]
        assert reader.read() == BODY  # whoever has it open reads on
    cache.fetch(urls[4])
    assert [path.exists() for path in paths] == [True, False, False] and held(cache) == 3 * len(BODY)
    assert cache.fetch(urls[1]).read_bytes() == BODY and server.requests["/plain/1.tar"] == 2


@pytest.mark.parametrize("mode", ["plain", "unknown"])
def test_the_bound_holds_while_many_download_at_once(tmp_path, server, mode):
    """Eight threads, room for two: they wait for each other. What is on the disk counts, parts included."""
    server.files |= {f"{n}.tar": BODY * 10 for n in range(8)}
    limit = 20 * len(BODY) + 1000
    cache = ShardCache(tmp_path / "cache", limit)
    most, errors, done = [0], [], threading.Event()

    def watch():
        while not done.is_set():
            sizes = {}  # a part that is moved into place meanwhile counts once
            with cache._lock("folder"):  # nothing is removed meanwhile
                for path in cache.folder.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        if path.suffix in (".tar", ".part"):
                            sizes[path.name.split(".")[0]] = path.stat().st_size
            most[0] = max(most[0], sum(sizes.values()))
            time.sleep(0.001)

    def fetch(number):
        try:
            for _ in range(2):
                while True:  # as readers do
                    with contextlib.suppress(FileNotFoundError):
                        assert cache.fetch(f"{server.url}/{mode}/{number}.tar").read_bytes() == BODY * 10
                        break
        except Exception as error:
            errors.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    done.set()
    watcher.join()
    assert errors == [] and 10 * len(BODY) <= most[0]
    assert most[0] <= limit + 8 * 2**18  # room is claimed with the first block, which is on the disk already


@pytest.mark.parametrize("known", [{}, {"size": len(BODY)}])
@pytest.mark.parametrize("mode", ["plain", "unknown"])
def test_a_shard_larger_than_the_cache_names_the_setting(tmp_path, server, mode, known):
    cache = ShardCache(tmp_path / "cache", len(BODY) - 1)
    with pytest.raises(UsageError, match=r"/0\.tar holds 0\.0003 GB or more, but data\.cache_gb is 0\.0003; raise it"):
        cache.fetch(f"{server.url}/{mode}/0.tar", **known)
    (tmp_path / "0.tar").write_bytes(BODY)
    with pytest.raises(UsageError, match=r"data\.cache_gb"):
        cache.fetch(f"file://{tmp_path}/0.tar")
    assert files(cache) == [] and server.requests["/plain/0.tar"] == (mode == "plain" and not known)


def test_a_cache_full_of_other_downloads_is_reported_after_a_while(tmp_path, server, monkeypatch):
    cache = ShardCache(tmp_path / "cache", 2 * len(BODY))
    monkeypatch.setattr(cache_module, "ROOM_SECONDS", 0.5)
    room = cache.folder / "other.tar.0.room"
    room.write_bytes(bytes(len(BODY) + 1))
    with cache._lock("other.tar"), pytest.raises(DataError, match=r"/0\.tar: for 0 s other downloads .*data\.cache_gb"):
        cache.fetch(f"{server.url}/plain/0.tar")
    cache.fetch(f"{server.url}/plain/1.tar")  # nobody holds the lock: a leftover, which is removed
    assert not room.exists()


def test_a_full_disk_is_named(cache, server, monkeypatch, pauses):
    for number, kind in enumerate((errno.ENOSPC, errno.EDQUOT)):

        def full(*arguments, kind=kind):
            raise OSError(kind, "No space left on device")

        monkeypatch.setattr(cache_module, "download", full)
        with pytest.raises(
            DataError, match=r"the disk of the cache folder, or its quota, is full; free space or lower"
        ):
            cache.fetch(f"{server.url}/plain/{number}.tar")
    assert pauses == []


def test_a_cache_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"data\.cache_gb gives a cache of 0 bytes; it must be above 0"):
        ShardCache(tmp_path, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be made .*; name one you may write to"):
        ShardCache(tmp_path / "file", 1)


def test_other_file_systems_of_fsspec(cache, tmp_path):
    (tmp_path / "0.tar").write_bytes(BODY)
    fsspec.filesystem("memory").pipe_file("/m/0.tar", BODY)
    for url in (f"file://{tmp_path}/0.tar", "memory://m/0.tar"):
        assert cache.fetch(url, size=len(BODY), sha256=SHA256).read_bytes() == BODY
        with pytest.raises(DataError, match=r"cannot be fetched: not found .*attempt 1 of 5"):
            cache.fetch(url.replace("0.tar", "1.tar"))
    fsspec.filesystem("memory").rm("/m", recursive=True)


def test_the_output_of_a_command(cache, tmp_path, pauses):
    (tmp_path / "a b.tar").write_bytes(BODY)
    url = f"pipe:cat '{tmp_path}/a b.tar'"
    assert cache.fetch(url, sha256=SHA256).read_bytes() == BODY
    with pytest.raises(DataError, match=r"pipe:false cannot be fetched: it ended with status 1: no message .*by hand"):
        cache.fetch("pipe:false")
    assert pauses == [1, 2, 3, 4]
    with pytest.raises(DataError, match=r"status 1: cat: /nowhere\.tar: No such file"):
        cache.fetch("pipe:cat /nowhere.tar")
    with pytest.raises(DataError, match="cannot be fetched: it is empty"):
        cache.fetch("pipe:true")
    with pytest.raises(
        DataError, match=r"pipe:no-such-program x\.tar: 'no-such-program' cannot be started .*install it"
    ):
        cache.fetch("pipe:no-such-program x.tar")
    with pytest.raises(DataError, match="run without a shell"):
        cache.fetch("pipe:cat a.tar | cat")
    assert len(files(cache)) == 1


def test_an_endless_command_is_stopped_at_the_bound(tmp_path):
    cache = ShardCache(tmp_path / "cache", 20 << 20)
    began = time.perf_counter()
    with pytest.raises(UsageError, match=r"data\.cache_gb"):
        cache.fetch("pipe:cat /dev/zero")
    assert time.perf_counter() - began < 10 and files(cache) == []


@pytest.mark.parametrize(
    "url",
    ["file:///x/../../../etc/passwd", "https://h/..%2f..%2fx.tar", "https://h/" + "a" * 500 + ".tar", "pipe:cat /"],
)
def test_file_names_stay_in_the_folder(tmp_path, url):
    name = cache_module._file_name(url, None, None)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert (
        len(name) < 100
        and name.endswith(".tar")
        and set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
    )


def test_a_changed_shard_is_another_file(cache, server):
    old = cache.fetch(f"{server.url}/plain/0.tar", sha256=SHA256)
    server.files["0.tar"] = BODY[::-1]
    new = cache.fetch(f"{server.url}/plain/0.tar", sha256=hashlib.sha256(BODY[::-1]).hexdigest())
    assert new != old and new.read_bytes() == BODY[::-1]


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_stay(cache, server):
    code = (
        f"from pathlib import Path; from atr.shards.cache import ShardCache\n"
        f"ShardCache(Path({str(cache.folder)!r}), 10**9).fetch('{server.url}/slow/0.tar')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not list(cache.folder.glob("*.room")):
        time.sleep(0.01)
        assert process.poll() is None
    ShardCache(cache.folder, 10**9)
    assert {path.suffix for path in files(cache)} == {".part", ".room"}
    process.kill()
    process.wait()
    ShardCache(cache.folder, 10**9)
    assert files(cache) == []


def test_prefetched_shards_are_there_and_failures_are_left_to_the_reader(cache, server):
    cache.prefetch([(f"{server.url}/404/9.tar", None, None)])
    cache.prefetch([(f"{server.url}/plain/{n}.tar", len(BODY), SHA256) for n in range(6)])
    until = time.monotonic() + 20
    while len(list(cache.folder.glob("*.tar"))) < 6 and time.monotonic() < until:
        time.sleep(0.01)
    assert cache.fetch(f"{server.url}/plain/3.tar", len(BODY), SHA256).read_bytes() == BODY
    assert server.requests["/plain/3.tar"] == 1
    with pytest.raises(DataError, match="not found"):
        cache.fetch(f"{server.url}/404/9.tar")
    assert sum(thread.name.startswith("prefetch-") and thread.daemon for thread in threading.enumerate()) >= 4
    assert pickle.loads(pickle.dumps(cache)).folder == cache.folder


def fetch_here(cache, url, results):
    results.put(cache.fetch(url).read_bytes() == BODY)


def test_a_fork_fetches_while_threads_of_its_parent_do(cache, server):
    """As the workers of a loader: fsspec's thread and the prefetching ones do not live on in the child."""
    context = multiprocessing.get_context("fork")
    for number in range(8):
        cache.prefetch([(f"{server.url}/slow/{number}.tar", None, None)])
    while not list(cache.folder.glob("*.part")):
        time.sleep(0.005)
    for number in range(8):
        results = context.Queue()
        worker = context.Process(target=fetch_here, args=(cache, f"{server.url}/plain/{number}.tar", results))
        worker.start()
        assert results.get(timeout=30)
        worker.join()


def test_a_fork_right_after_the_first_prefetch_fetches(cache, server):
    """In a fresh interpreter, where the first use of a URL imports what it needs."""
    code = (
        f"import os, sys; from pathlib import Path; from atr.shards.cache import ShardCache\n"
        f"cache = ShardCache(Path({str(cache.folder)!r}), 10**9)\n"
        f"cache.prefetch([(f'{server.url}/slow/{{n}}.tar', None, None) for n in range(4)])\n"
        f"while 'aiohttp' not in sys.modules: pass\n"  # would be in the middle of its import
        f"for number in range(4):\n"
        f"    if os.fork() == 0:\n"
        f"        os.write(1, b'%d ' % len(cache.fetch(f'{server.url}/plain/{{number}}.tar').read_bytes()))\n"
        f"        os._exit(0)\n"
        f"for number in range(4): os.wait()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (result.stdout, result.stderr) == (f"{len(BODY)} " * 4, "")


@pytest.mark.parametrize("interrupt", [False, True])
def test_prefetching_does_not_keep_the_interpreter(cache, server, interrupt):
    code = (
        f"import time, os, signal; from pathlib import Path; from atr.shards.cache import ShardCache\n"
        f"cache = ShardCache(Path({str(cache.folder)!r}), 10**9)\n"
        f"cache.prefetch([(f'{server.url}/slow/{{n}}.tar', None, None) for n in range(8)])\n"
        f"while not list(cache.folder.glob('*.part')): time.sleep(0.01)\n"
        + ("signal.alarm(0); os.kill(os.getpid(), signal.SIGINT); time.sleep(60)" if interrupt else "print('end')")
    )
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + code
    began = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert time.perf_counter() - began < 5
    if interrupt:
        assert result.stderr.rstrip().endswith("KeyboardInterrupt")
    else:
        assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")


@pytest.fixture
def ctrl_c():
    """Ctrl-C works, although a suite that runs in the background inherits an ignored one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_download_leaves_nothing(cache, server, ctrl_c):
    others = asyncio.all_tasks(fsspec.asyn.get_loop())  # what other tests prefetch
    threading.Timer(0.3, lambda: os.kill(os.getpid(), 2)).start()
    with pytest.raises(KeyboardInterrupt):
        cache.fetch(f"{server.url}/slow/0.tar")
    assert files(cache) == []
    until = time.monotonic() + 3  # the whole transfer would take 7.5 s
    while (going_on := asyncio.all_tasks(fsspec.asyn.get_loop()) - others) and time.monotonic() < until:
        time.sleep(0.01)
    assert not going_on  # in fsspec's thread
    assert cache.fetch(f"{server.url}/plain/0.tar").read_bytes() == BODY


def test_a_download_does_not_hold_the_shard_in_memory(cache, server):
    server.files["big.tar"] = bytes(50 << 20)
    cache.fetch(f"{server.url}/plain/0.tar")
    sha256 = hashlib.sha256(bytes(50 << 20)).hexdigest()
    tracemalloc.start()
    cache.fetch(f"{server.url}/plain/big.tar", sha256=sha256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25 << 20
