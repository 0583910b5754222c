"""`atr doctor`: where the time of a run goes on this machine and this data, and how many workers it wants."""

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from atr.config import build, missing
from atr.errors import DataError, UsageError
from atr.experiment import build_data
from atr.models.clap import Clap
from atr.models.compute import fast_cpu, set_compute
from atr.pipeline.collate import Collate
from atr.pipeline.datamodule import AudioTextData
from atr.pipeline.ledger import list_bad
from atr.shards.forks import available_processors
from atr.tasks.freezing import Freezing
from atr.tasks.parts import encode_in_parts
from atr.tasks.trainer import best_precision
from atr.types import BadSample, Batch, Sample

CLIPS = 64  # measured one by one
CPU_BATCH = 32  # clips of a step at most, where it is computed on a CPU
STEPS = 3  # after one to warm up
LOADER_SECONDS = 5.0  # s that the real loader is watched
ADVICE = {
    "read": "put the shards on a faster or a local disk",
    "decode": "write the shards at the model's sample rate (no resampling), or in a cheaper codec (flac or wav)",
    "augment": "choose a cheaper augment=…, or lower its probabilities",
    "collate": "nothing to tune: this is tokenising and stacking",
    "transfer": "the copy to the device is slow: check that the device has all its PCIe lanes",
    "step": "the model is the bottleneck, as it should be: the loader keeps up with it",
}


@dataclass
class Diagnosis:
    """Times in ms for a clip on one of `devices`; `loader` and `model` in clips/s of one device.

    `loader` is what the real loader delivered with `workers` processes while nothing else ran.
    """

    device: str
    devices: int
    processors: int
    batch: int  # clips of the measured step
    stages: dict[str, float]
    workers: int
    configured: int
    model: float
    loader: float
    bottleneck: str
    advice: str


def diagnose(cfg: DictConfig) -> Diagnosis:
    """Measures reading, decoding, augmenting, collating, the transfer and a training step.

    Args:
        cfg: as for `train`; nothing is written, and `init` and `resume` do not matter.

    Raises:
        UsageError: the configuration streams its data or has no value for something.
        DataError: the data cannot be used.
    """
    cfg.init = None
    if cfg.data.streaming:
        raise UsageError("data.streaming=true cannot be taken apart; measure with data.streaming=false")
    if unset := missing(cfg):
        raise UsageError(f"experiment={cfg.name} needs a value for: {', '.join(unset)} (e.g. {unset[0]}=…)")
    OmegaConf.resolve(cfg)
    torch.manual_seed(cfg.seed)
    model: Clap = build(cfg.model)
    data = build_data(cfg, model)
    accelerator = cfg.trainer.accelerator
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    devices = number_of_devices(cfg, on_gpu)
    local = max(1, cfg.data.batch_size // devices)
    size = min(local, len(data.sets["train"]), local if on_gpu else CPU_BATCH)
    stages, batch = loading_stages(data, size)
    set_compute(model, **cfg.compute)
    with nullcontext() if on_gpu else fast_cpu():
        stages |= step_stages(cfg, model.to(device), batch, device)
    load, learn = (sum(stages[name] for name in names) for names in (LOADING, LEARNING))
    free = max(1, available_processors() // devices - 1)
    workers = min(max(1, math.ceil(load / learn)), free)
    configured, data.batch_size = data.num_workers, local
    loader, speed = loader_speed(data, workers), 1e3 / learn
    # What was measured decides: several workers may slow each other down.
    bottleneck = max(LEARNING if loader >= speed else LOADING, key=lambda name: stages[name])
    name = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    return Diagnosis(
        name, devices, available_processors(), size, stages, workers, configured, speed, loader, bottleneck,
        ADVICE[bottleneck],
    )  # fmt: skip


def number_of_devices(cfg: DictConfig, on_gpu: bool) -> int:
    """How many devices of this machine a run would use."""
    given = cfg.trainer.devices
    if given in ("auto", -1, "-1"):
        return torch.cuda.device_count() if on_gpu else 1
    return int(given) if isinstance(given, int | str) else len(given)


LOADING = ("read", "decode", "augment", "collate")
LEARNING = ("transfer", "step")


def loading_stages(data: AudioTextData, size: int) -> tuple[dict[str, float], Batch]:
    """ms for a clip of each stage in one process, over the first clips of epoch 0; and a batch of `size` of them."""
    shards, training = data.sets["train"], data.training
    clock = dict.fromkeys(LOADING, 0.0)
    rng = np.random.default_rng(data.seed)
    numbers = itertools.cycle(rng.permutation(len(shards)).tolist())
    loaded: list[Any] = []
    bad: list[BadSample] = []
    while len(loaded) < max(CLIPS, size):
        number = next(numbers)
        partner: list[Sample] = []
        try:
            with timing(clock, "read"):  # of a long clip, only what is decoded, and then within decode
                meta, audio = shards.metadata(number), shards.open_audio(number)
            with timing(clock, "decode"):
                crop = training.cropped(shards.name(number), meta, audio, rng)
            if training.mix is not None:  # a partner costs as much again
                with timing(clock, "decode", share=training.mix.probability):
                    partner = [training.cropped(shards.name(number), meta, shards.open_audio(number), rng)]
        except DataError as error:
            bad.append(BadSample(shards.name(number), str(error)))
            if len(bad) > CLIPS:
                raise DataError(f"too many clips cannot be used, among them\n{list_bad(bad)}") from error
            continue
        with timing(clock, "augment"):
            sample = training.finished(crop, partner.pop, rng)
        loaded.append((sample, []))
    count = len(loaded)
    Collate(data.tokenizer)([])  # loads the tokenizer
    with timing(clock, "collate"):
        batch = Collate(data.tokenizer)(loaded[:size])
    clock["collate"] *= count / size
    return {stage: 1e3 * seconds / count for stage, seconds in clock.items()}, batch


def step_stages(cfg: DictConfig, model: Clap, batch: Batch, device: torch.device) -> dict[str, float]:
    """ms for a clip: the copy to the device, and forward, backward and optimizer."""
    loss = build(cfg.loss).to(device)
    make, parameters = build(cfg.optimizer), build(cfg.parameters)
    Freezing(model, parameters.freeze, cfg.data.seconds)  # what is frozen for good has no backward pass
    optimizer = make(parameters(model, loss, make.keywords.get("lr")))
    precision = cfg.trainer.precision or best_precision(cfg.trainer.accelerator)
    kinds = {"bf16": torch.bfloat16, "16-m": torch.float16, "32-t": None, "32": None}
    if str(precision)[:4] not in kinds:
        raise UsageError(f"trainer.precision={precision} is not measured; choose bf16-mixed, 16-mixed or 32-true")
    kind = kinds[str(precision)[:4]]
    half = torch.autocast(device.type, kind) if kind else nullcontext()
    pinned = batch.pin_memory() if device.type == "cuda" else batch

    def step(moved: Batch) -> None:
        with half:
            value = loss(encode_in_parts(model.train(), moved, cfg.micro_batch), moved)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(pinned.to(device))
    clock = dict.fromkeys(LEARNING, 0.0)
    for _ in range(STEPS):
        with timing(clock, "transfer", device):
            moved = pinned.to(device)
        with timing(clock, "step", device):
            step(moved)
    return {stage: 1e3 * seconds / STEPS / len(batch.samples) for stage, seconds in clock.items()}


def loader_speed(data: AudioTextData, workers: int) -> float:
    """Clips/s of the real loader, its first batches left out."""
    data.num_workers = workers
    loader = data.train_dataloader()
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in range(1 + 2 * workers):  # those that are made while the first one is waited for
        next(batches)
    began, clips, seconds = time.perf_counter(), 0, 0.0
    while seconds < LOADER_SECONDS:
        clips += len(next(batches).samples)
        seconds = time.perf_counter() - began
    return clips / seconds


@contextmanager
def timing(
    clock: dict[str, float], stage: str, device: torch.device | None = None, share: float = 1.0
) -> Iterator[None]:
    """Adds (a share of) the seconds that the block takes, on the device too; nothing when it fails."""
    began = time.perf_counter()
    yield
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize()
    clock[stage] += share * (time.perf_counter() - began)


def print_diagnosis(d: Diagnosis) -> None:
    """The table and the verdict on the screen."""
    console = Console()
    title = f"{d.devices} x {d.device}, {d.processors} processors, steps of {d.batch} clips"
    table = Table(title=title, title_justify="left")
    for column in ("stage", "ms/clip", "clips/s", "where"):
        table.add_column(column, justify="right" if "/" in column else "left")
    for stage, value in d.stages.items():
        table.add_row(stage, f"{value:.2f}", f"{1e3 / value:.0f}", "a worker" if stage in LOADING else "the device")
    console.print(table)
    load = sum(d.stages[stage] for stage in LOADING)
    console.print(
        f"one worker loads {1e3 / load:.0f} clips/s, a device trains {d.model:.0f} clips/s\n"
        f"loader      {d.loader:.0f} clips/s measured with {d.workers} workers while nothing else ran\n"
        f"bottleneck  {d.bottleneck}: {d.advice}\n"
        f"workers     data.num_workers={d.workers} (now {d.configured})",
        highlight=False,
    )
