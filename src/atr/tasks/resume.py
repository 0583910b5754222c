"""Going on with a run: which checkpoint, whether it is of this run, and its exact place within the epoch."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from atr.checkpoint import WEIGHTS, newest_checkpoint, read_checkpoint
from atr.errors import CheckpointError
from atr.tasks.files import clear_parts

SAME_ON_RESUME = (
    "model", "loss", "optimizer", "schedule", "augment", "masking", "seed", "data.batch_size", "data.exclude_labels",
    "data.seconds", "data.sample_rate", "data.mixture", "data.stereo", "data.streaming", "data.streaming_clips",
    "data.label_template", "micro_batch", "parameters", "ema",
    "data.crop", "captioner.mapping", "captioner.language_model", "captioner.temporal",
)  # fmt: skip
LATER = {"data.crop": "random"}  # keys that earlier versions did not write, with the value that they stood for
SAID_ON_RESUME = (
    "trainer.precision", "trainer.gradient_clip_val", "trainer.gradient_clip_algorithm", "trainer.max_epochs",
    "trainer.max_steps", "trainer.limit_train_batches",
)  # fmt: skip


def find_resume(cfg: DictConfig) -> Path | None:
    """The checkpoint to continue from, read once to be sure that it is one; None to begin anew.

    `resume=auto` looks in the run's own folder, where a job that is started again finds itself, then in the folders
    beside it. Where nothing was ever written there, the run begins.

    Raises:
        CheckpointError: `resume=auto` and no checkpoint is whole, the file is not a checkpoint, or of another run.
    """
    if not cfg.resume:
        return None
    if cfg.resume == "auto":
        own = Path(cfg.run_dir)
        clear_parts(own.parent)
        if not any(own.parent.glob("*/checkpoints/*.ckpt")):
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                print(f"resume=auto: nothing to go on with under {own.parent}; the run begins")
            return None
        found = newest_checkpoint(own.parent, own.name) or newest_checkpoint(own.parent)
        if found is None:
            raise CheckpointError(f"resume=auto, but no checkpoint under {own.parent} is whole; start without resume")
    else:
        found = Path(cfg.resume)
    if found.suffix == WEIGHTS:
        raise CheckpointError(
            f"{found} holds weights only; go on with the .ckpt beside it, or start a new run from it with init="
        )
    before = read_checkpoint(found).config
    values = {
        key: (OmegaConf.select(before, key, default=LATER.get(key)), OmegaConf.select(cfg, key))
        for key in SAME_ON_RESUME
    }
    if changed := [key for key, (then, now) in values.items() if then != now]:
        raise CheckpointError(
            f"{found} belongs to a run with other values of {', '.join(changed)}; give that run's experiment= and "
            "overrides again (they are in its config.yaml), or start a new run from its weights with init="
        )
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        for key in SAID_ON_RESUME:
            old, new = OmegaConf.select(before, key), OmegaConf.select(cfg, key)
            if old != new:
                print(f"resume: {key} is {new} from here on, it was {old}")
    return found


def check_same_data(resume: Path, hashes: dict[str, Any]) -> None:
    """Refuses to go on with other training shards: the order of the clips would be another one.

    Raises:
        CheckpointError: the checkpoint's training set has other clips.
    """
    before, now = read_checkpoint(resume).about["data"].get("train"), hashes.get("train")
    if before != now:
        raise CheckpointError(
            f"{resume} was trained on other shards: {before} then, {now} now; give data.train as it was (with its "
            "quarantine.jsonl), or start a new run from its weights with init="
        )


def rewind(checkpoint: dict[str, Any]) -> tuple[int, int]:
    """Sets the progress in a checkpoint to its last optimizer step, wherever in Lightning's loops it was written.

    The optimizer's count is the one to trust: a batch that was fetched, or trained but not yet counted, differs from
    it. An epoch that was trained to its end counts as finished; its validation is not run again.

    Args:
        checkpoint: as Lightning writes it; changed in place.

    Returns:
        The epoch to go on with, and the batches of it (of this rank) that are done.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["current"]["completed"]
    done = min(steps, batches["current"]["ready"])
    finished = batches["is_last_batch"] and done == batches["current"]["ready"]
    total = batches["total"]["completed"] - batches["current"]["completed"] + done
    batches["is_last_batch"] = False
    if finished or done == 0:  # as between two epochs
        epoch = epochs["current"]["ready" if finished else "processed"]
        for counts in epochs.values():
            counts |= dict.fromkeys(counts, epoch)
        _count(batches["total"], total, total)
        _count(batches["current"], 0, 0)
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"]
        return epoch, 0
    # As in `on_train_batch_end` of the last batch: a place that Lightning continues from by going to the next batch.
    epoch = epochs["current"]["ready"] - 1
    for counts in epochs.values():  # a run that ended within an epoch, by max_steps or max_time, counted it as done
        counts.update(processed=epoch, completed=epoch)
    _count(batches["total"], total, total - 1)
    _count(batches["current"], done, done - 1)
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - 1
    return epoch, done


def _count(counts: dict[str, int], reached: int, completed: int) -> None:
    counts.update(ready=reached, started=reached, processed=reached, completed=completed)
