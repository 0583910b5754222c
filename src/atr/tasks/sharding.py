"""FSDP2: weights, gradients and optimizer state in shards, one on each device (`trainer=fsdp2`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer

from atr.models.clap import Clap
from atr.models.window import Block


class FullySharded(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy` over all devices of all nodes, with our checkpoints: one file, whole tensors.

    Such a file goes on under any strategy and on any number of devices.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Puts all devices into one data-parallel group; Lightning's `auto` would take one of each node."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads weights and optimizer state; returns the rest, for Lightning to load.

        Lightning's own way takes the numbers of an optimizer's state for places among the module's parameters,
        which those of a checkpoint of DDP are not.
        """
        path = self.broadcast(str(checkpoint_path))
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.model, optimizer, by_name(state, optimizer, self.model), options=options)
        return checkpoint


def by_name(state: dict[str, Any], optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """An optimizer's state dict with parameters' names for their numbers: the n-th stored one is its n-th, as in torch.

    Raises:
        ValueError: they are not equally many.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    own = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    stored = [number for group in state["param_groups"] for number in group["params"]]
    name_of = dict(zip(stored, own, strict=True))
    groups = [group | {"params": [name_of[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {name_of[number]: value for number, value in state["state"].items()}, "param_groups": groups}


def shard(model: Clap, loss: nn.Module, mesh: DeviceMesh) -> None:
    """Spreads the model over a mesh, a block or layer at a time; gradients become means over the ranks, as DDP's.

    Towers and projections are roots of their own, because validation calls them without `Clap.forward`. The scalars
    of the loss stay whole (FSDP2 takes none).
    """
    for part in [*blocks(model), model.audio, model.text, model.audio_projection, model.text_projection]:
        fully_shard(part, mesh=mesh, reshard_after_forward=True)

    def mean(gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total, group=mesh.get_group())
        return total / mesh.size()

    for scalar in loss.parameters():
        scalar.register_hook(mean)


def blocks(model: Clap) -> Iterator[nn.Module]:
    """HTSAT's blocks, and the layers of the text encoder: what stands in its outermost lists."""
    yield from (module for module in model.audio.modules() if isinstance(module, Block))
    inside: set[nn.Module] = set()
    for module in model.text.modules():
        if isinstance(module, nn.ModuleList) and module not in inside:
            yield from module
            inside.update(module.modules())


def is_sharded(model: nn.Module) -> bool:
    """Are the weights spread over several devices?"""
    return any(isinstance(module, FSDPModule) for module in model.modules())


@torch.inference_mode(False)
@torch.no_grad()
def gather_weights(model: nn.Module) -> None:
    """Makes sharded weights whole on each rank until `release_weights`; nothing where they are.

    Ranks then may encode different numbers of batches, as those of a validation set are. Outside inference mode,
    whose tensors could not be trained with afterwards.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()


def release_weights(model: nn.Module) -> None:
    """Keeps this rank's shards only."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()
