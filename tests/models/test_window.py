"""Our Swin stages against timm's, which take the tokens to windows and back in every block."""

import pytest
import torch
from timm.models.swin_transformer import SwinTransformerStage

from atr.models.window import Stage, corners, window_order

SIDE, WINDOW, DIM = 16, 8, 16


def stages(merge: bool, drop_path: float = 0.0):
    """timm's stage and ours, made from the same seed."""
    side, shape = (SIDE, {"dim": DIM, "out_dim": 2 * DIM if merge else DIM, "depth": 3})
    rates = [drop_path] * 3
    order = window_order(side, WINDOW, 0)
    torch.manual_seed(3)
    theirs = SwinTransformerStage(
        **shape, input_resolution=(side, side), num_heads=4, window_size=WINDOW, downsample=merge, drop_path=rates
    )
    torch.manual_seed(3)
    ours = Stage(**shape, side=side, heads=4, window=WINDOW, drop_path=rates, order=order, merge=merge)
    return theirs, ours, order


def run(theirs, ours, order):
    """Outputs in the picture's order, and all gradients, of the same input."""
    side = int(len(order) ** 0.5)
    x = torch.randn(2, side * side, DIM, generator=torch.Generator().manual_seed(0))
    target = torch.randn(2, ours.side**2, theirs.blocks[0].dim, generator=torch.Generator().manual_seed(1))
    first = theirs(x.view(2, side, side, DIM)).flatten(1, 2)
    (first * target).sum().backward()
    second = torch.empty_like(first)
    second[:, ours.order] = ours(x[:, order], False)
    (second * target).sum().backward()
    return first, second


@pytest.mark.parametrize("merge", [False, True])
def test_weights_names_outputs_and_gradients_are_timms(merge):
    theirs, ours, order = stages(merge)
    mine = ours.state_dict()
    assert list(mine) == list(theirs.state_dict())
    assert all(torch.equal(mine[name], value) for name, value in theirs.state_dict().items())
    first, second = run(theirs, ours, order)
    torch.testing.assert_close(second, first, atol=1e-5, rtol=0)  # measured: 1e-6
    for (name, one), other in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        scale = one.grad.abs().max()
        torch.testing.assert_close(other.grad / scale, one.grad / scale, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("broken", ["mask", "bias", "order"])
def test_a_missing_mask_bias_or_move_would_be_noticed(broken):
    theirs, ours, order = stages(merge=False)
    shifted = ours.blocks[1]
    if broken == "mask":
        shifted.attn.crossing.zero_()
    elif broken == "bias":
        shifted.attn.relative_position_bias_table.data.zero_()
    else:
        shifted.move.index.copy_(torch.arange(SIDE * SIDE))
    first, second = run(theirs, ours, order)
    assert (first - second).abs().max() > 1e-3


def test_sdpa_has_the_same_gradients():
    _, ours, _ = stages(merge=False)
    x = torch.randn(2, SIDE * SIDE, DIM)
    found = {}
    for fused in (False, True):
        ours.zero_grad()
        ours(x, fused).square().sum().backward()
        found[fused] = [p.grad.clone() for p in ours.parameters()]
    for plain, sdpa in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(sdpa / plain.abs().max(), plain / plain.abs().max(), atol=1e-5, rtol=0)


def test_drop_path_draws_as_timms():
    theirs, ours, order = stages(merge=False, drop_path=0.5)
    x = torch.randn(8, SIDE * SIDE, DIM)
    torch.manual_seed(5)
    first = theirs(x.view(8, SIDE, SIDE, DIM)).flatten(1, 2)
    second = torch.empty_like(first)
    torch.manual_seed(5)
    second[:, ours.order] = ours(x[:, order], False)
    torch.testing.assert_close(second, first, atol=1e-5, rtol=0)


def test_the_orders_hold_every_place_once():
    assert window_order(4, 2, 0).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert window_order(4, 2, 1).tolist()[:4] == [5, 6, 9, 10]
    assert corners(torch.tensor([3]), 2).tolist() == [10, 14, 11, 15]  # (row, column): (2,2), (3,2), (2,3), (3,3)
    assert sorted(corners(window_order(8, 4, 2), 8).tolist()) == list(range(256))


def test_a_picture_that_windows_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="12 x 12 patches cannot be cut into windows of 8"):
        Stage(8, 8, 12, 1, 2, 8, [0.0], torch.arange(144), merge=False)
