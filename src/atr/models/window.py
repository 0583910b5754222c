"""Swin's stages (arXiv 2103.14030) as HTSAT needs them, with timm's parameters, their names and initial values.

Everything but attention treats each token on its own, so tokens need not lie in the picture's order: they stay in
the order of the windows in which they attend, and move once where the windows change. timm takes them to windows and
back in every block, and cyclic shifts are two further copies. Relative-position bias and shift mask are added
up once per block and broadcast over the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CROSSING = -100.0  # added to the scores of tokens that only the cyclic shift made neighbours; as in Swin


class Stage(nn.Module):
    """Blocks of one width, after 2 x 2 patches were merged into one (not in the first stage).

    Args:
        dim: width of the input. out_dim: of the output.
        side: tokens along each side of the input's picture.
        depth: blocks; every second one has shifted windows. heads: of each block.
        window: tokens along each side of a window.
        drop_path: of each block.
        order: places `(side * side,)` in the picture of the input's tokens.
        merge: whether patches are merged.

    Attributes:
        side: of the output's picture. order: places of the output's tokens.
        recompute: each block is computed again in the backward pass, in exchange for its activations' memory.
    """

    def __init__(
        self, dim: int, out_dim: int, side: int, depth: int, heads: int, window: int, drop_path: Sequence[float],
        order: Tensor, merge: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.side = side // 2 if merge else side
        window = min(window, self.side)
        if self.side % window:
            raise ValueError(f"a stage of {self.side} x {self.side} patches cannot be cut into windows of {window}")
        if merge:
            after = window_order(self.side, window, 0)
            self.downsample: nn.Module = PatchMerging(dim, out_dim, Move(order, corners(after, self.side)))
            order = after
        else:
            self.downsample = nn.Identity()
        blocks = []
        for number, rate in zip(range(depth), drop_path, strict=True):
            shift = window // 2 if number % 2 and self.side > window else 0
            after = window_order(self.side, window, shift)
            blocks.append(Block(out_dim, self.side, heads, window, shift, rate, Move(order, after)))
            order = after
        self.blocks = nn.ModuleList(blocks)
        self.order, self.recompute = order, False

    def forward(self, x: Tensor, fused: bool) -> Tensor:
        """`(B, N, C)` -> `(B, N or N / 4, out_dim)`."""
        x = self.downsample(x)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, fused, use_reentrant=False)
            else:
                x = block(x, fused)
        return x


class Block(nn.Module):
    """Attention within windows and an MLP, each with its norm before and DropPath after it.

    Args:
        dim: width. side: tokens along each side of the picture. window: of a window.
        heads: of the attention. shift: of the windows, in tokens.
        drop_path: share of the clips for which a branch is left out.
        move: takes the tokens from the order of the block before into the order of these windows.
    """

    def __init__(
        self, dim: int, side: int, heads: int, window: int, shift: int, drop_path: float, move: "Move"
    ) -> None:
        super().__init__()
        self.move = move
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, side, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = drop_path

    def forward(self, x: Tensor, fused: bool) -> Tensor:
        """`(B, N, C)` in the order of the block before -> the same shape in the order of these windows."""
        x = self.move(x)
        x = self._add(x, self.attn(self.norm1(x), fused))
        return self._add(x, self.mlp(self.norm2(x)))

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        """x + DropPath(branch) (arXiv 1603.09382): kept branches are scaled by 1 / share kept."""
        if not self.training or not self.drop_path:
            return x + branch
        keep = 1.0 - self.drop_path
        kept = x.new_empty(len(x), 1, 1).bernoulli_(keep)
        return torch.addcmul(x, branch, kept.div_(keep))


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learnt bias for each relative position.

    Args: as of `Block`.
    """

    relative_index: Tensor
    crossing: Tensor | None

    def __init__(self, dim: int, side: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.area = heads, window * window
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_index", relative_index(window), persistent=False)
        self.register_buffer("crossing", crossing(side, window, shift) if shift else None, persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, fused: bool) -> Tensor:
        """`(B, N, C)` in the order of the windows -> the same."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(-1, self.area, 3, self.heads, dim // self.heads)
        bias = self.bias().to(qkv.dtype)
        # One copy for all three; windows and heads side by side, so that the bias is broadcast over the batch.
        qkv = qkv.permute(2, 0, 3, 1, 4).reshape(3, -1, len(bias), self.area, dim // self.heads)
        q, k, v = qkv.unbind(0)
        if fused:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
        else:
            out = ((q * self.scale) @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        out = out.reshape(-1, self.heads, self.area, dim // self.heads).transpose(1, 2)
        return self.proj(out.reshape(batch, tokens, dim))

    def bias(self) -> Tensor:
        """What is added to the scores: `(heads, A, A)`, or `(windows * heads, A, A)` where windows are shifted."""
        bias = self.relative_position_bias_table[self.relative_index].view(self.area, self.area, -1).permute(2, 0, 1)
        if self.crossing is not None:
            bias = (self.crossing.unsqueeze(1) + bias).flatten(0, 1)
        return bias


class PatchMerging(nn.Module):
    """2 x 2 tokens become one of another width.

    Args:
        move: puts the four tokens of each new one side by side.
    """

    def __init__(self, dim: int, out_dim: int, move: "Move") -> None:
        super().__init__()
        self.move = move
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, C)` -> `(B, N / 4, out_dim)`."""
        batch, tokens, dim = x.shape
        return self.reduction(self.norm(self.move(x).view(batch, tokens // 4, 4 * dim)))


class Move(nn.Module):
    """Tokens in one order -> the same tokens in another.

    Args:
        before, after: places `(N,)` of the tokens in the picture.
    """

    index: Tensor
    inverse: Tensor

    def __init__(self, before: Tensor, after: Tensor) -> None:
        super().__init__()
        self.stays = torch.equal(before, after)
        index = before.argsort()[after]
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("inverse", index.argsort(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, C)` -> the same."""
        return x if self.stays else _Permute.apply(x, self.index, self.inverse)


class _Permute(torch.autograd.Function):
    """`x.index_select(1, index)`; its gradient is a copy as well, while PyTorch's adds into zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradients[0].index_select(1, inverse), None, None


def window_order(side: int, window: int, shift: int) -> Tensor:
    """Places of a picture, `(side * side,)`, window by window, after a cyclic shift to the upper left."""
    places = torch.arange(side * side, device="cpu").view(side, side).roll((-shift, -shift), (0, 1))
    return _by_window(places, window).flatten()


def corners(order: Tensor, side: int) -> Tensor:
    """Places in a picture of twice the side: for each one of `order` its four, in timm's order, `(4 * N,)`."""
    row, column = order // side, order % side
    return torch.stack([(2 * row + r) * 2 * side + 2 * column + c for c in (0, 1) for r in (0, 1)], dim=1).flatten()


def relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of a window's places, flat `(A * A,)`."""
    place = torch.arange(window * window, device="cpu")
    row, column = place // window, place % window
    rows = row.unsqueeze(1) - row + window - 1
    return (rows * (2 * window - 1) + column.unsqueeze(1) - column + window - 1).flatten()


def crossing(side: int, window: int, shift: int) -> Tensor:
    """`CROSSING` for pairs of tokens in a window that come from opposite edges of the picture, else 0: `(W, A, A)`."""
    line = torch.arange(side, device="cpu")
    part = (line >= side - window).int() + (line >= side - shift).int()
    region = _by_window(3 * part.unsqueeze(1) + part, window)
    return CROSSING * (region.unsqueeze(1) != region.unsqueeze(2)).float()


def _by_window(picture: Tensor, window: int) -> Tensor:
    """`(S, S)` -> `(windows, A)`."""
    cut = len(picture) // window
    return picture.view(cut, window, cut, window).transpose(1, 2).reshape(cut * cut, window * window)
