"""`data.streaming=true`: shards read from front to back as they come, by `webdataset`'s own pipeline.

For places that allow neither a local copy nor random access. What it gives up, next to the indexed reading: the order
depends on the number of workers and devices, shards are drawn with replacement, so that a clip may come twice in an
epoch while another does not come at all, and a resumed run goes on with other clips.
"""

import functools
import io
import itertools
import json
import random
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from atr.errors import DataError
from atr.pipeline.dataset import Loaded, Training
from atr.shards.index import AUDIO_SUFFIXES
from atr.shards.quarantine import read_quarantine
from atr.shards.remote import is_remote
from atr.shards.transfer import PIPE, command_words, file_system, is_http, shown
from atr.types import BadSample, Sample

BUFFER = 512  # samples that are shuffled with each other, undecoded
BAD_IN_A_ROW = 1000  # samples; then the stream as a whole is refused


class StreamedClips(IterableDataset[Loaded]):
    """An endless stream of training samples, cut into epochs of `batches` for each rank.

    Args:
        places: tars, URLs, `pipe:` commands, each with the name of its corpus.
        training: makes a sample of a sound file and its json.
        seed: of the drawing of shards, the shuffle and the crops; also says where a resumed run begins.
        batches: of an epoch.
        local_batch: clips of a batch on this rank.
        rank: of this process.
    """

    def __init__(
        self,
        places: list[tuple[str, str]],
        training: Training,
        seed: Sequence[int],
        batches: int,
        local_batch: int,
        rank: int,
    ) -> None:
        self.corpus = dict(places)
        self.left_out = _quarantined(self.corpus)
        self.training, self.seed, self.batches, self.local_batch = training, seed, batches, local_batch
        self.rank = rank
        self._stream: Iterator[Loaded] | None = None

    def __len__(self) -> int:
        return self.batches * self.local_batch

    def __iter__(self) -> Iterator[Loaded]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if self._stream is None:  # the next epoch goes on where this one stopped
            self._stream = self._endless(number)
        return itertools.islice(self._stream, len(range(number, self.batches, workers)) * self.local_batch)

    def _endless(self, worker: int) -> Iterator[Loaded]:
        """Samples of this worker; the bad ones met on the way travel with the next good one."""
        bad: list[BadSample] = []
        raw = self._raw(worker, bad)
        for position in itertools.count():
            rng = np.random.default_rng([*self.seed, self.rank, worker, position])
            first = self._usable(raw, rng, bad)
            sample = self.training.finished(first, functools.partial(self._usable, raw, rng, bad), rng)
            yield sample, bad.copy()
            bad.clear()

    def _usable(self, raw: Iterator[dict[str, Any]], rng: np.random.Generator, bad: list[BadSample]) -> Sample:
        for _ in range(BAD_IN_A_ROW):
            item = next(raw)
            key = f"{shown(item['__url__'])}:{item['__key__']}"
            try:
                suffix = next((suffix for suffix in AUDIO_SUFFIXES if suffix in item), None)
                audio = io.BytesIO(item[suffix]) if suffix else None
                sample = self.training.cropped(key, _metadata(item), audio, rng)
            except DataError as error:
                bad.append(BadSample(key, str(error)))
            else:
                sample.corpus = self.corpus[item["__url__"]]
                return sample
        raise DataError(f"{BAD_IN_A_ROW} streamed clips in a row cannot be used; the last is {bad[-1].key}")

    def _raw(self, worker: int, bad: list[BadSample]) -> Iterator[dict[str, Any]]:
        """Undecoded samples as bytes. Nothing is unpickled: `webdataset`'s decoders are not in the pipeline.

        A shard that breaks off is noted in `bad`, and the next one is read.

        Raises:
            DataError: a thousand shards in a row gave no sample.
        """
        from webdataset import ResampledShards, shuffle
        from webdataset.tariterators import group_by_keys, tar_file_expander

        def note(error: Exception) -> bool:
            said = shown(str(error.args[0] if error.args else error)).partition(" @ ")[0]
            bad.append(BadSample(shown(place), f"{type(error).__name__} while it was streamed: {said}"))
            return True

        place = ""
        seed = int(np.random.SeedSequence([*self.seed, self.rank, worker]).generate_state(1)[0])
        shards = ResampledShards(list(self.corpus), seed=seed, worker_seed=lambda: worker, deterministic=True)

        def samples() -> Iterator[dict[str, Any]]:
            nonlocal place
            empty = 0
            for item in shards:
                place, empty = item["url"], empty + 1
                try:
                    with open_stream(place) as stream:
                        files = tar_file_expander(iter([{"url": place, "stream": stream}]), handler=note)
                        for sample in group_by_keys(files, handler=note):
                            if sample["__key__"] in self.left_out.get(place, ()):
                                continue
                            empty = 0
                            yield sample
                except Exception as error:
                    note(error)
                if empty > BAD_IN_A_ROW:
                    reason = f"{bad[-1].key}: {bad[-1].reason}" if bad else shown(place)
                    raise DataError(f"nothing can be streamed; the last try: {reason}")

        yield from shuffle(BUFFER, rng=random.Random(seed))(samples())


def _quarantined(places: Iterable[str]) -> dict[str, set[str]]:
    """Tar on this machine -> the keys that `quarantine.jsonl` beside it leaves out."""
    tars = [Path(place) for place in places if not is_remote(place)]
    found: dict[str, set[str]] = {}
    for folder in {tar.parent for tar in tars}:
        for row in read_quarantine(folder):
            found.setdefault(str(folder / row.shard), set()).add(row.key)
    return found


@contextmanager
def open_stream(place: str) -> Iterator[BinaryIO]:
    """A shard from its beginning: a path, a URL, or the output of a `pipe:` command (without a shell).

    Raises:
        OSError: a command that was read to its end says that it failed.
    """
    if not place.startswith(PIPE):
        system, path = file_system(place)
        with system.open(path, "rb", **({"block_size": 0} if is_http(place) else {})) as stream:
            yield stream
        return
    with subprocess.Popen(command_words(place), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout  # type: ignore[misc]
            rest = process.stdout.read()  # zeros behind the end mark
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise OSError(f"the command ended with status {process.returncode}, {len(rest)} bytes after the last sample")


def _metadata(item: dict[str, Any]) -> dict[str, Any]:
    """The json of a streamed sample.

    Raises:
        DataError: it is not a json object.
    """
    try:
        meta = json.loads(item.get("json", b"{}"))
    except ValueError as error:
        raise DataError(f"its json cannot be read ({error})") from error
    if not isinstance(meta, dict):
        raise DataError(f"its json is a {type(meta).__name__}, not an object")
    return meta
