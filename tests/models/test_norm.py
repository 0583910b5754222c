"""The norm of several processes against `nn.BatchNorm2d` over all of their rows."""

import torch
from torch import Tensor, nn

from atr.models.norm import MelNorm

BINS, FRAMES, CLIPS, STEPS = 5, 7, 6, 3


def log_mel(step: int) -> Tensor:
    """Clips that grow louder, so that each rank has a mean and a variance of its own."""
    noise = torch.randn(CLIPS, BINS, FRAMES, 1, generator=torch.Generator().manual_seed(step))
    return (
        noise * torch.linspace(1, 12, CLIPS)[:, None, None, None] - torch.linspace(60, 10, CLIPS)[:, None, None, None]
    )


def train(norm: nn.BatchNorm2d, rows: slice) -> list[Tensor]:
    """Some steps over `rows` of each batch: outputs and gradients of the last, running statistics."""
    torch.manual_seed(0)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.uniform_(norm.bias)
    coefficients = torch.randn(CLIPS, BINS, FRAMES, 1)[rows]
    for step in range(STEPS):
        norm.zero_grad()
        x = log_mel(step)[rows].requires_grad_()
        y = norm(x)
        (y.tanh() * coefficients).sum().backward()
    assert x.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
    norm.eval()
    calm = norm(x)
    state = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
    return [y, x.grad, calm, norm.weight.grad, norm.bias.grad, *[value for value in state if value is not None]]


def one_rank(rank: int, world: int, folder: str) -> None:
    """A process of the test below."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    rows = slice(rank * CLIPS // world, (rank + 1) * CLIPS // world)
    results = {kind.__name__: train(kind(BINS), rows) for kind in (MelNorm, nn.BatchNorm2d)}
    torch.save({name: [value.detach() for value in values] for name, values in results.items()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_norm_as_one(tmp_path):
    torch.multiprocessing.spawn(one_rank, args=(2, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    expected = train(nn.BatchNorm2d(BINS), slice(None))

    def differences(name: str) -> list[float]:
        *sides, first, second, mean, variance, count = zip(*(rank[name] for rank in ranks), strict=True)
        assert all(int(steps) == STEPS for steps in count)
        for ours, other in (mean, variance):
            assert name != "MelNorm" or torch.equal(ours, other)
        joint = [*(torch.cat(side) for side in sides), *(sum(part) for part in (first, second)), mean[0], variance[0]]
        return [
            float(((one - other).abs().max() / other.abs().max()).detach())
            for one, other in zip(joint, expected[:-1], strict=True)
        ]

    assert max(differences("MelNorm")) < 2e-6
    assert min(differences("BatchNorm2d")) > 0.1  # the control: each process has statistics of its own


def test_one_process_norms_as_torch_does():
    ours, theirs = (train(kind(BINS), slice(None)) for kind in (MelNorm, nn.BatchNorm2d))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert MelNorm(BINS).state_dict().keys() == nn.BatchNorm2d(BINS).state_dict().keys()
