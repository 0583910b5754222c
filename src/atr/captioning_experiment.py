"""A captioning run from its configuration, as `atr.experiment.train` starts it."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from atr.captioning import build_captioner, describe_captioner, load_captioner, load_tensors, tensors_of
from atr.checkpoint import Checkpoint, build_model, describe, newest_checkpoint, read_checkpoint, use_tokenizer
from atr.config import build
from atr.datasets.guard import guard
from atr.errors import CheckpointError, UsageError
from atr.evaluation.caption_numbers import check_keywords
from atr.evaluation.captioner import Wordless, beside_run, caption_set
from atr.evaluation.keywords import read_keywords
from atr.evaluation.own import flat, sets_of_run
from atr.evaluation.run import Evaluated, Subject, write_evaluated
from atr.evaluation.screen import print_results
from atr.experiment import begin, build_data, checkpoint_of, left_out, say, set_sizes, write_down
from atr.frozen import write_frozen
from atr.inference import AudioTextModel, fingerprint
from atr.models.captioner import Captioner
from atr.models.compute import fast_cpu
from atr.optim import Groups
from atr.pipeline.datamodule import AudioTextData, by_corpus
from atr.pipeline.features import StoredFeatures, stored_features, window_key
from atr.provenance import data_hashes
from atr.ranks import leave_group, of_first_rank
from atr.tasks.callbacks import CountBad
from atr.tasks.captioning import CaptioningTask, sum_losses
from atr.tasks.finite import RefuseNonFinite
from atr.tasks.resume import check_same_data
from atr.tasks.saving import KeepBest
from atr.tasks.trainer import build_trainer, fit, share_processors

ENCODED = 32  # clips at once, where features are stored


def train_captioner(cfg: DictConfig) -> dict[str, float]:
    """Trains a captioner on the frozen contrastive model of `cfg.init`; returns and raises as `train` does."""
    check_settings(cfg)
    keywords = read_keywords(cfg.evaluation.keywords) if cfg.evaluation.keywords else None
    base = adopt_model(cfg)
    run_dir, resume = begin(cfg)
    captioner = build_captioner(build_model(base), cfg.captioner)
    if base.captioner is not None:
        load_tensors(captioner, base)
    data = build_data(cfg, captioner)
    leaks = [*guard(data, **cfg.leaks), *heard_before(cfg, base)]
    if keywords is not None:
        check_keywords(data.labels("test"), keywords)
    hashes = data_hashes(data)
    about = describe(cfg, captioner.clap, base.about["labels"], hashes)
    about["captioner"] = describe_captioner(captioner, base.log_scale)
    if resume is not None:
        check_same_data(resume, hashes)
        check_same_frozen(resume, about["captioner"]["frozen"])
    task = CaptioningTask(captioner.train(), build(cfg.optimizer), build(cfg.schedule), cfg.seed, about)
    ledgers = {name: data.ledger(name, cfg.bad_samples) for name in ("train", "validation")}
    finite = RefuseNonFinite(run_dir, cfg.watch.non_finite, cfg.watch.most_skips)
    trainer = build_trainer(cfg, run_dir, resume, CountBad(ledgers["train"], ledgers["validation"]), finite)
    share_processors(trainer, data.num_workers)
    if trainer.is_global_zero:
        write_down(cfg, run_dir, hashes)
        write_frozen(tensors_of(captioner)[1], run_dir / "checkpoints")
        print("\n".join([*opening(cfg, captioner, data, trainer), *leaks, *left_out(data)]), flush=True)
    if cfg.captioner.cache is not None:
        data.training.features = use_stored(captioner, data, Path(cfg.captioner.cache), trainer.strategy.root_device)
    fit(trainer, task, data, run_dir / "checkpoints", resume)
    leave_group(trainer)
    for name, ledger in ledgers.items():
        for line in ledger.lines():
            say(trainer, f"{name}: {line}")
    if "test" not in data.sets or not trainer.is_global_zero or cfg.trainer.fast_dev_run:
        return {}
    return finish(cfg, trained_captioner(trainer, captioner), data, run_dir, leaks)


def check_settings(cfg: DictConfig) -> None:
    """Refuses what has no meaning for a captioner.

    Raises:
        UsageError: naming the value.
    """
    if cfg.masking.word_mask is not None:
        raise UsageError("masking hides words that a captioner is to learn; set masking=none")
    if cfg.micro_batch is not None or cfg.compute.compile or cfg.compute.recompute:
        raise UsageError(
            "micro_batch and compute are for contrastive training; leave them out, or lower data.batch_size"
        )
    if vars(build(cfg.parameters)) != vars(Groups()):
        raise UsageError("parameters.* are of the contrastive model, which is frozen here; leave them out")
    if cfg.captioner.cache is None:
        return
    moving = {
        "augment": cfg.augment.transform is not None or cfg.augment.get("mix") is not None,
        "data.crop=random": cfg.data.crop != "first",
        "data.streaming": cfg.data.streaming,
    }
    if found := [name for name, there in moving.items() if there]:
        raise UsageError(
            f"captioner.cache keeps one embedding of each clip, and {found[0]} asks for another at each epoch; set "
            "augment=none data.crop=first, or captioner.cache=null"
        )


def adopt_model(cfg: DictConfig) -> Checkpoint:
    """Reads `init`, and makes its model that of `cfg`. A folder of runs stands for the newest checkpoint in it.

    Raises:
        UsageError: there is no `init`, or a folder without checkpoints.
        CheckpointError: it cannot be used.
    """
    if not cfg.init:
        raise UsageError("a captioner needs a contrastive model to stand on: init=runs/…/checkpoints/last.ckpt")
    place = Path(cfg.init)
    if place.is_dir() and not (place / "config.json").is_file():
        found = newest_checkpoint(place)
        if found is None:
            raise UsageError(f"init={place}: no run in this folder has a checkpoint; train one with `python train.py`")
        cfg.init = of_first_rank(str(found))
    elif str(place).startswith("runs/") and not place.exists():
        raise UsageError(f"init={place} is not there; train a contrastive model first, with `python train.py`")
    base = read_checkpoint(cfg.init)
    if base.about["tokenizer"] is None:
        use_tokenizer(base, cfg.model.text.tokenizer.path)
    if base.captioner is not None and base.config.captioner.mapping != cfg.captioner.mapping:
        raise CheckpointError(
            f"init={cfg.init} is a captioner with the mapping {dict(base.config.captioner.mapping)}, this run has "
            f"{dict(cfg.captioner.mapping)}; make captioner.mapping the same"
        )
    cfg.model = base.config.model
    return base


def heard_before(cfg: DictConfig, base: Checkpoint) -> list[str]:
    """Says which folders of the evaluation sets the contrastive model was trained on."""
    what = "the contrastive model" if base.captioner is None else "the captioner that it begins with"
    known = {
        str(Path(folder).absolute())
        for folders in by_corpus(OmegaConf.to_object(base.config).get("data", {}).get("train")).values()  # type: ignore[union-attr]
        for folder in folders
    }
    return [
        f"leaks: {folder} is in data.{name}, and {what} was trained on it"
        for name in ("validation", "test")
        for folders in by_corpus(cfg.data[name]).values()
        for folder in folders
        if str(Path(folder).absolute()) in known
    ]


def check_same_frozen(resume: Path, sha256: str) -> None:
    """Refuses to go on with other frozen weights.

    Raises:
        CheckpointError: they differ from those that the checkpoint was trained on.
    """
    before = read_checkpoint(resume)
    if before.about["captioner"]["frozen"] != sha256:
        raise CheckpointError(
            f"{resume} was trained on other frozen weights than those of now; give init={before.config.init} (and the "
            "same language model), or start a new run from it with init="
        )


def use_stored(captioner: Captioner, data: AudioTextData, folder: Path, device: torch.device) -> StoredFeatures:
    """The features of the training and the validation set, made on `device` where they are not in `folder`."""
    listening = data.listening
    model = f"{fingerprint(captioner.clap)} {captioner.temporal}"
    key = window_key(model, listening.seconds, listening.sample_rate, listening.stereo)
    captioner.clap.to(device)
    with fast_cpu() if device.type == "cpu" else nullcontext():
        return stored_features(
            [data.sets[name] for name in ("train", "validation") if name in data.sets], listening,
            lambda waveform: captioner.features(waveform.to(device)), folder.expanduser() / key, ENCODED,
            data.num_workers,
        )  # fmt: skip


def opening(cfg: DictConfig, captioner: Captioner, data: AudioTextData, trainer: pl.Trainer) -> list[str]:
    """What a run says about itself before it starts."""
    trained, frozen = (sum(t.numel() for t in tensors.values()) / 1e6 for tensors in tensors_of(captioner))
    lines = [
        f"run         {cfg.run_dir}",
        f"data        {set_sizes(data)}",
        f"on          {cfg.init}",
        f"captioner   {trained:.1f} M parameters are trained, {frozen:.1f} M frozen",
        f"device      {trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}",
    ]
    if cfg.captioner.cache is not None:
        lines.append(f"features    kept in {cfg.captioner.cache}")
    if cfg.ema is not None:
        lines.append(f"average     of the weights with decay {cfg.ema}; it is validated and saved")
    return lines


def trained_captioner(trainer: pl.Trainer, captioner: Captioner) -> Captioner:
    """The best checkpoint's captioner by the monitored number, or the one that training left."""
    best = [one.best for one in trainer.checkpoint_callbacks if isinstance(one, KeepBest)]
    return load_captioner(read_checkpoint(best[0])) if best and best[0] else captioner.eval()


def finish(
    cfg: DictConfig, captioner: Captioner, data: AudioTextData, run_dir: Path, remarks: list[str]
) -> dict[str, float]:
    """Captions the test set and measures the loss on it; writes `results.json`, `metrics.json` and the report.

    Captions are decoded as `atr caption` does by default: beam search with 5 beams. Each corpus is a result of its own.
    """
    from atr.evaluation.report import write_report

    numbers = loss_on_test(captioner, data)
    done = caption_own(cfg, captioner, run_dir)
    for one in done.results[:1]:
        one.remarks += remarks
    if done.results:
        numbers = flat(done.results) | numbers
        write_evaluated(run_dir, done)
    (run_dir / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n")
    print_results(done.results)
    if "loss" in numbers:
        print(f"test        loss {numbers['loss']:.3f} nats per token ({numbers['clips']:.0f} clips)")
    for line in done.missing:
        print(f"missing     {line}")
    print(f"numbers     {run_dir / 'metrics.json'}")
    if done.results:
        print(f"report      {write_report([run_dir], run_dir / 'report' / 'index.html')}")
    print(f"use it      atr caption {checkpoint_of(run_dir)} FILE…")
    return numbers


def loss_on_test(captioner: Captioner, data: AudioTextData) -> dict[str, float]:
    """`clips` of the test set, and the mean `loss` of a token of their captions, in nats."""
    data.trainer = None  # the whole test set, on this process
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    captioner.to(device)
    sums, clips = torch.zeros(2, dtype=torch.float64), 0
    for batch in data.evaluation_loader("test"):
        sums += sum_losses(captioner, batch.to(device))
        clips += len(batch.samples)
    return {"clips": float(clips)} | ({"loss": float(sums[0] / sums[1])} if sums[1] else {})


def caption_own(cfg: DictConfig, captioner: Captioner, run_dir: Path) -> Evaluated:
    """The captions of a run's test sets, scored; clips without references are left out, and counted.

    Raises:
        DataError: more clips are bad than `bad_samples`, or an embedding is not finite.
    """
    subject = Subject.of(AudioTextModel(captioner.clap, captioner=captioner), checkpoint_of(run_dir))
    keywords = read_keywords(cfg.evaluation.keywords) if cfg.evaluation.keywords else None
    beside, done = beside_run(cfg, keywords), Evaluated()
    for name, clips in sets_of_run(cfg, subject.checkpoint).items():
        rows = [row for row, captions in enumerate(clips.captions) if captions]
        lacking = f"{len(clips) - len(rows)} of {len(clips)} clips of {name} have no captions to compare with"
        if not rows:
            done.missing.append(lacking)
            continue
        try:
            found = caption_set(subject, clips.of(rows), beside=beside, bad_share=cfg.bad_samples)
        except Wordless as error:  # of a captioner that was hardly trained: its loss is worth being told
            done.missing.append(f"scores of captions: {error}")
            continue
        if len(rows) < len(clips):
            found.results[0].remarks.append(lacking)
        done.add(found)
    return done
