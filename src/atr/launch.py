"""From the command line to `train`: Hydra's part of `python train.py` and `atr train`."""

import importlib.util
import logging
import os
import re
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from atr.config import compose_config, conf_dir, replaced
from atr.errors import AtrError, UsageError
from atr.tasks.stopping import Interrupted, Stopped, requeue, stopping_at_once


def launch(arguments: Sequence[str] | None = None) -> None:
    """Runs `train` with Hydra's command line; exits with 0 (done, or stopped), 1 (data or model) or 2 (usage).

    Args:
        arguments: overrides and Hydra's own flags; those of the process when None.
    """
    arguments = replaced(sys.argv[1:] if arguments is None else arguments)
    sys.argv = [sys.argv[0], *arguments]
    try:
        with stopping_at_once():  # training itself listens for signals in another way
            check_launcher(arguments)
            if not any(argument.startswith("-") for argument in arguments):
                compose_config(arguments)  # Hydra's own message about a mistyped key does not name the valid ones
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_run)()
    except UsageError as error:
        fail(error)
    except Stopped as stop:
        if local_rank() == 0:
            print(Interrupted(stop.number, None, 0))
        sys.exit(0)


def _run(cfg: DictConfig) -> None:
    if cfg.run_dir is None:
        cfg.run_dir = HydraConfig.get().runtime.output_dir
        if HydraConfig.get().mode != RunMode.MULTIRUN:  # a sweep has its time in it
            cfg.run_dir += time.strftime("/%Y-%m-%d_%H-%M-%S")
    prepare_children(HydraConfig.get().overrides.task, cfg.run_dir)
    try:
        from atr.experiment import train

        quiet()  # Lightning has been imported
        train(cfg)
    except Interrupted as stop:
        _say_how_to_go_on(cfg, stop)
    except Stopped as stop:  # before training, or after it: then only the evaluation is not done
        last = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
        _say_how_to_go_on(cfg, Interrupted(stop.number, last) if last.exists() else Interrupted(stop.number, None, 0))
    except AtrError as error:
        fail(error)


def _say_how_to_go_on(cfg: DictConfig, stop: Interrupted) -> None:
    """Says on the first rank where the state is, puts a SLURM job whose time is up into the queue again, and exits."""
    from pytorch_lightning.utilities import rank_zero_only

    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        print(stop, flush=True)
        if stop.path is not None:
            given = [text for text in HydraConfig.get().overrides.task if not text.startswith(("resume=", "run_dir="))]
            print(f"continue with: python train.py {shlex.join([*given, f'resume={stop.path}'])}", flush=True)
        if stop.number == signal.SIGUSR1 and "SLURM_JOB_ID" in os.environ:
            again = requeue() if cfg.resume == "auto" else "to be queued again by itself, a job needs resume=auto"
            print(again, flush=True)
    sys.exit(0)  # a sweep ends here, too


def check_launcher(arguments: Sequence[str]) -> None:
    """Refuses a launcher that Hydra would not use or could not find.

    Raises:
        UsageError: it is chosen without -m, or what it needs is not installed.
    """
    for chosen in (text for text in arguments if text.startswith("hydra/launcher=")):
        if not any(text.startswith("-") for text in arguments):
            raise UsageError(f"{chosen} starts the runs of a sweep only, also of one run: put -m before it")
        if chosen.endswith(("slurm", "submitit_local")) and importlib.util.find_spec("submitit") is None:
            raise UsageError(f'{chosen} needs `pip install "atr[slurm]"`')


def prepare_children(overrides: Sequence[str], run_dir: str) -> None:
    """Lightning starts the processes of further devices as `python -m SPEC ARGUMENTS`: this module and this one run.

    The command line itself may be a whole sweep, the verb `atr train`, or that of another launcher.

    Args:
        overrides: of this run, as typed.
        run_dir: its folder, which another process would name by another time.
    """
    kept = [text for text in overrides if not text.startswith("run_dir=")]
    # Hydra's quoting: a quote is escaped, and backslashes only before a quote.
    quoted = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), run_dir)
    sys.argv = [sys.argv[0], *kept, f"run_dir='{quoted}'"]
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("atr.launch")


def fail(error: AtrError) -> None:
    """Prints an error that a user can mend and exits: 2 for wrong usage, 1 for data or model.

    Of several processes on a machine only the first one tells of wrong usage, which is the same for all of them. Data
    may be at fault for one alone, so that each tells its own.
    """
    rank = local_rank()
    if rank == 0 or not isinstance(error, UsageError):
        print(f"error{f' (process {rank})' if rank else ''}: {error}", file=sys.stderr, flush=True)
    sys.exit(2 if isinstance(error, UsageError) else 1)


def local_rank() -> int:
    """Which of a run's processes on this machine this one is, before anything slow is imported."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def quiet() -> None:
    """Leaves out what libraries say to their own developers."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    patterns: list[tuple[str, Any]] = [
        (".*does not have many workers.*", Warning),
        (".*LeafSpec.*", Warning),
        (".*smaller than the logging interval.*", Warning),
        (".*Total length of `list`.*", Warning),
        (".*Experiment logs directory.*", Warning),
        (".*The dirpath has changed.*", Warning),
        (".*your dataloader is not resumable.*", Warning),
        (".*sync_dist=True.*", Warning),  # every rank has the numbers of the whole set already
        (".*exists and is not empty.*", Warning),  # what is frozen lies there already
        (".*module.s. in eval mode at the start.*", Warning),  # frozen ones
        (".*returned a view tensor.*", Warning),  # FSDP2; nothing is done in place to what a block returns
    ]
    for pattern, category in patterns:
        warnings.filterwarnings("ignore", message=pattern, category=category)


if __name__ == "__main__":
    launch()
