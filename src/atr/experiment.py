"""A run from its configuration: compose, seed, build the leaves, fit, evaluate, report."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger

from atr.checkpoint import describe
from atr.config import build, missing
from atr.datasets.guard import guard
from atr.errors import UsageError
from atr.evaluation.encode import check_candidates, check_templates
from atr.evaluation.own import evaluate_own, flat
from atr.evaluation.record import FILE
from atr.evaluation.run import Subject, write_evaluated
from atr.evaluation.screen import print_results
from atr.inference import AudioTextModel
from atr.initialise import initial_model, report
from atr.models.captioner import Captioner
from atr.models.clap import Clap
from atr.models.compute import set_compute
from atr.pipeline.datamodule import AudioTextData, by_corpus
from atr.pipeline.ledger import list_bad
from atr.provenance import data_hashes, environment
from atr.ranks import leave_group, of_first_rank
from atr.shards.find import find_shards
from atr.shards.quarantine import FILE as QUARANTINE
from atr.shards.remote import is_remote
from atr.tasks.callbacks import CountBad
from atr.tasks.chance import CompareWithChance
from atr.tasks.contrastive import ContrastiveTask
from atr.tasks.finite import RefuseNonFinite
from atr.tasks.resume import check_same_data, find_resume
from atr.tasks.trainer import build_trainer, check_saving, fit, share_processors, trained_model


def train(cfg: DictConfig) -> dict[str, float]:
    """Trains, evaluates and reports as `cfg` says; all files go to `cfg.run_dir`.

    A configuration with a `captioner` trains this on a contrastive model (`atr.captioning_experiment`).

    Returns:
        The numbers in `metrics.json`; empty when there is no test set.

    Raises:
        AtrError: the data or the weights cannot be used.
        Interrupted: a signal told the run to stop; its state is saved.
    """
    if unset := missing(cfg):
        raise UsageError(f"experiment={cfg.name} needs a value for: {', '.join(unset)} (e.g. {unset[0]}=…)")
    if cfg.captioner:
        from atr.captioning_experiment import train_captioner

        return train_captioner(cfg)
    run_dir, resume = begin(cfg)
    model, towers = initial_model(cfg)
    set_compute(model, **cfg.compute)
    data = build_data(cfg, model)
    if cfg.evaluation.labels:
        check_candidates(cfg.evaluation.labels, data.labels("test"))
    leaks = guard(data, **cfg.leaks)
    hashes = data_hashes(data)
    if resume is not None:
        check_same_data(resume, hashes)
    task = ContrastiveTask(
        model, build(cfg.loss), build(cfg.optimizer), build(cfg.schedule), cfg.seed,
        cfg.evaluation.templates, describe(cfg, model, data.labels(), hashes), data.corpora(), cfg.micro_batch,
        build(cfg.parameters), cfg.data.seconds,
    )  # fmt: skip
    ledgers = {name: data.ledger(name, cfg.bad_samples) for name in ("train", "validation")}
    fresh = not (towers["audio_projection"].source or towers["text_projection"].source)
    chance, finite = watchers(cfg, run_dir, fresh)
    trainer = build_trainer(cfg, run_dir, resume, CountBad(ledgers["train"], ledgers["validation"]), chance, finite)
    share_processors(trainer, data.num_workers)
    if trainer.is_global_zero:
        write_down(cfg, run_dir, hashes)
        lines = [opening(cfg, model, data, trainer), report(towers, run_dir), *how_trained(cfg, task), *leaks]
        print("\n".join(lines + left_out(data)), flush=True)
    fit(trainer, task, data, run_dir / "checkpoints", resume)
    leave_group(trainer)
    remarks = [f"{name}: {line}" for name, ledger in ledgers.items() for line in ledger.lines()]
    for remark in remarks:
        say(trainer, remark)
    remarks = leaks + remarks + chance.remarks + finite.remarks
    if "test" not in data.sets or not trainer.is_global_zero or cfg.trainer.fast_dev_run:
        return {}
    return finish(cfg, trained_model(trainer, model, run_dir / "checkpoints"), run_dir, remarks, trainer.loggers)


def begin(cfg: DictConfig) -> tuple[Path, Path | None]:
    """Looks at the values and the folders, makes `cfg` final, and seeds the initial weights.

    Returns:
        The run's folder, and the checkpoint to go on with.
    """
    check_values(cfg)
    run_dir = Path(of_first_rank(str(cfg.run_dir)))
    cfg.run_dir = str(run_dir)
    OmegaConf.resolve(cfg)
    OmegaConf.set_readonly(cfg, True)
    found = of_first_rank(str(find_resume(cfg) or ""))
    check_folders(cfg)
    torch.manual_seed(cfg.seed)
    return run_dir, Path(found) if found else None


def write_down(cfg: DictConfig, run_dir: Path, hashes: dict[str, Any]) -> None:
    """Writes the configuration, and with what and on what it runs."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    (run_dir / "environment.json").write_text(json.dumps(environment() | {"data": hashes}, indent=2))


def watchers(cfg: DictConfig, run_dir: Path, fresh: bool) -> tuple[CompareWithChance, RefuseNonFinite]:
    """What looks at the loss, as `cfg.watch` says.

    Args:
        fresh: the projections have random weights.
    """
    watch, warmup_steps = cfg.watch, cfg.schedule.get("warmup_steps", 0)
    return (
        CompareWithChance(watch.initial_loss, watch.stuck_steps, watch.stuck_loss, fresh, warmup_steps),
        RefuseNonFinite(run_dir, watch.non_finite, watch.most_skips),
    )


def check_values(cfg: DictConfig) -> None:
    """Refuses what would end in a library's words later.

    Raises:
        UsageError: naming the value.
    """
    if cfg.run_dir is None:
        raise UsageError("run_dir is null; name the folder of the run")
    check_templates(cfg.evaluation.templates)
    check_saving(cfg)
    if cfg.seed < 0:
        raise UsageError(f"seed={cfg.seed}; it must be 0 or more")
    if (size := cfg.micro_batch) is not None and (not isinstance(size, int) or size < 1):
        raise UsageError(f"micro_batch is {size!r}; allowed: null, or a whole number from 1 on")
    if cfg.trainer.get("accumulate_grad_batches") not in (None, 1):
        raise UsageError(
            f"trainer.accumulate_grad_batches={cfg.trainer.accumulate_grad_batches} would compare each clip with the "
            "captions of its own batch only: another loss, with fewer negatives. For a batch larger than memory make "
            "data.batch_size the whole one, and set micro_batch to the clips of a device that fit through the model"
        )
    if not cfg.data.train:
        raise UsageError("data.train is empty; name at least one shard folder, e.g. data.train=[data/esc10/fold1]")
    if not cfg.get("leaks"):
        raise UsageError("leaks is empty; leaks.action=ignore is what turns the search for leaks off")
    if cfg.trainer.get("overfit_batches"):
        raise UsageError("trainer.overfit_batches replaces the order of the data; use trainer.limit_train_batches")


def check_folders(cfg: DictConfig) -> None:
    """Looks for the local shards before anything is fetched for the model.

    Raises:
        DataError: a folder is not there or holds none.
    """
    for name in ("train", "validation", "test"):
        for places in by_corpus(cfg.data[name]).values():
            for place in places:
                if not is_remote(str(place)):
                    find_shards(place)


def finish(cfg: DictConfig, model: Clap, run_dir: Path, remarks: list[str], loggers: list[Logger]) -> dict[str, float]:
    """Evaluates the trained model on the test set; writes `results.json`, `metrics.json` and the report."""
    from atr.evaluation.report import write_report

    done = evaluate_own(Subject.of(AudioTextModel(model), checkpoint_of(run_dir)), cfg)
    print_results(done.results)
    for one in done.results[:1]:
        one.remarks += remarks  # which were said when they arose
    numbers = flat(done.results)
    write_evaluated(run_dir, done)
    (run_dir / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n")
    page = write_report([run_dir], run_dir / "report" / "index.html")
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_metrics({f"test/{name}": value for name, value in numbers.items()})
            logger.experiment.finish()  # or the next run of a sweep would go on in this one
    print(f"numbers     {run_dir / FILE}\nreport      {page}")
    print(f"use it      atr classify {checkpoint_of(run_dir)} FILE…")
    return numbers


def build_data(cfg: DictConfig, model: Clap | Captioner) -> AudioTextData:
    """The data module of a configuration, tokenising for `model`."""
    tokenizer = model.tokenizer if isinstance(model, Captioner) else model.text.tokenizer
    return build(
        cfg.data, tokenizer=tokenizer, transform=build(cfg.augment.transform),
        word_mask=build(cfg.masking.word_mask), mix=build(cfg.augment.get("mix")),
    )  # fmt: skip


def checkpoint_of(run_dir: Path) -> Path:
    """The checkpoint a user should take from a run."""
    best = run_dir / "checkpoints" / "best.ckpt"
    return best if best.exists() else run_dir / "checkpoints" / "last.ckpt"


def opening(cfg: DictConfig, model: Clap, data: AudioTextData, trainer: pl.Trainer) -> str:
    """What a run says about itself before it starts."""

    def millions(module: torch.nn.Module) -> str:
        return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M"

    device = f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"
    return (
        f"run         {cfg.run_dir}\ndata        {set_sizes(data)}\n"
        f"model       audio {millions(model.audio)}, text {millions(model.text)} parameters\ndevice      {device}"
    )


def set_sizes(data: AudioTextData) -> str:
    """How many clips each set has."""
    sets = ", ".join(f"{len(shards)} clips for {name}" for name, shards in data.sets.items())
    return f"train is streamed, {data.streaming_clips} clips an epoch; {sets}" if data.streamed else sets


def left_out(data: AudioTextData) -> list[str]:
    """What of the sets is not used, and why."""
    lines = []
    for name, shards in data.sets.items():
        if shards.quarantined:
            lines.append(f"{name}: {len(shards.quarantined)} clips are left out by {QUARANTINE}")
        if shards.lost:
            lines.append(f"{name}: lost in damaged shards, {len(shards.lost)} entries:\n{list_bad(shards.lost)}")
    return lines


def how_trained(cfg: DictConfig, task: ContrastiveTask) -> list[str]:
    """Lines about learning rates, frozen parts and averaging; none with the default values."""
    lines = [task.parameter_groups.line(len(task.groups())), *task.freezing.lines(cfg.trainer.max_epochs)]
    if cfg.ema is not None:
        lines.append(f"average     of the weights with decay {cfg.ema}; it is validated, saved and evaluated")
    return [line for line in lines if line]


def say(trainer: pl.Trainer, text: str) -> None:
    """Prints on the first rank."""
    if trainer.is_global_zero:
        print(text, flush=True)
