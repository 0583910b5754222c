"""The processes of one run, where torchrun, srun or the like started them: each composes its own configuration."""

import functools
import itertools
import os

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import ParallelStrategy

from atr.errors import UsageError

_QUESTIONS = itertools.count()


def cluster() -> ClusterEnvironment | None:
    """What started this process as one of several, in the order in which Lightning looks for it; None when nothing did.

    Lightning's own processes are none of these: the first one starts them, with all that it knows.
    """
    for kind in (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment):
        if kind.detect():
            environment = kind()
            return environment if environment.world_size() > 1 else None
    return None


def check_started(devices: int, nodes: int) -> None:
    """Compares what the trainer is told with the processes that are there; each would train on its own otherwise.

    Raises:
        UsageError: they differ, or several nodes are wanted and nothing has started processes on them.
    """
    environment = cluster()
    if environment is None and nodes > 1:
        raise UsageError(
            f"trainer.num_nodes={nodes}, but this process was started alone; start one for each device on each node "
            "with torchrun or srun (README, Several devices and nodes)"
        )
    if environment is not None and environment.world_size() != devices * nodes:
        raise UsageError(
            f"{environment.world_size()} processes were started, but trainer.devices={devices} and "
            f"trainer.num_nodes={nodes} make {devices * nodes}; set them to the devices of a node and the nodes"
        )


def of_first_rank(value: str) -> str:
    """What rank 0 has, on every rank; `value` itself where this process is the only one that was started.

    All ranks must call it equally often. The clocks of nodes differ, and with them the run folders and the newest
    checkpoints.
    """
    environment = cluster()
    if environment is None:
        return value
    key = f"atr/{next(_QUESTIONS)}"
    store = _store(environment.global_rank(), environment.world_size(), environment.main_address, environment.main_port)
    if environment.global_rank() == 0:
        store.set(key, value)
    return store.get(key).decode()


@functools.cache
def _store(rank: int, world: int, address: str, port: int) -> dist.Store:
    """The store that the process group will meet at, too; kept, as it is rank 0 that holds it under srun."""
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    store, _, _ = next(dist.rendezvous("env://", rank, world))
    return store


def leave_group(trainer: pl.Trainer) -> None:
    """Where Lightning started the processes: ends their group, so that the next run of a sweep can start its own."""
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy) or not isinstance(strategy.cluster_environment, LightningEnvironment):
        return
    if dist.is_initialized():
        dist.destroy_process_group()
    for name in ("LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):  # they say that this process was started
        os.environ.pop(name, None)
