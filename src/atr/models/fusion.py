"""Feature fusion: clips longer than the model's, as a whole and by three crops (`aff_2d` of LAION-CLAP).

The whole is squeezed into the frames of one clip, and three crops of that length are embedded at full resolution;
what each place takes from either is learnt (attentional feature fusion, arXiv 2009.14082). Source: LAION-AI/CLAP at
1fd4c37, `clap_module/feature_fusion.py`, `clap_module/htsat.py`, `training/data.py`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atr.models.norm import MelNorm

CROPS = 3
REDUCTION = 4  # of the channels within an attention


class AttentionalFusion(nn.Module):
    """Two pictures into one: for each token and channel a share of the first, the rest of the second, times two.

    The shares come from the sum of both: from each token by itself (`local_att`), and from the mean of all of them
    (`global_att`). So it does not matter in which order the tokens stand.

    Args:
        dim: channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.local_att = attention(dim)
        self.global_att = attention(dim, nn.AdaptiveAvgPool2d(1))

    def forward(self, whole: Tensor, crops: Tensor) -> Tensor:
        """`(B, N, C)` twice, in one order of tokens, N a square -> `(B, N, C)`."""
        if self.training and len(whole) == 1:  # the mean of a single clip has no variance; as LAION does it
            return self(whole.repeat(2, 1, 1), crops.repeat(2, 1, 1))[:1]
        side = math.isqrt(whole.shape[1])
        # Not (B, C, N, 1): with a width of 1 PyTorch mistakes the layout, and some gradients of batch norms are wrong.
        both = (whole + crops).transpose(1, 2).unflatten(2, (side, side)).contiguous()
        share = torch.sigmoid(self.local_att(both) + self.global_att(both)).flatten(2).transpose(1, 2)
        return 2 * whole * share + 2 * crops * (1 - share)


def attention(dim: int, *first: nn.Module) -> nn.Sequential:
    """Two layers of width `dim / 4` and `dim` on each place alone, after other modules."""
    inner = dim // REDUCTION
    return nn.Sequential(
        *first, nn.Conv2d(dim, inner, 1), MelNorm(inner), nn.ReLU(), nn.Conv2d(inner, dim, 1), MelNorm(dim)
    )


def four_views(log_mel: Tensor, frames: int, at_random: bool = False) -> Tensor:
    """Log-mels of clips longer than the model's -> the whole in short, and crops of its front, middle and back.

    Args:
        log_mel: `(B, F, M)` in dB, F > `frames`.
        frames: of each view.
        at_random: whether chance places the crops; see `crop_starts`.

    Returns:
        `(B, 4, frames, M)`: whole, front, middle, back.
    """
    clips, total, mels = log_mel.shape
    whole = F.interpolate(log_mel.unsqueeze(1), (frames, mels), mode="bilinear", align_corners=False, antialias=False)
    starts = crop_starts(clips, total, frames, at_random).to(log_mel.device)
    clip = torch.arange(clips, device=log_mel.device).unsqueeze(1)
    crops = log_mel.unfold(1, frames, 1)[clip, starts]  # (B, 3, M, frames)
    return torch.cat([whole, crops.transpose(2, 3)], dim=1)


def crop_starts(clips: int, total: int, frames: int, at_random: bool) -> Tensor:
    """First frames of the crops, int64 `(clips, 3)`.

    The places where a crop can begin, 0 … total - frames, are cut into three nearly equal parts (those of
    `numpy.array_split`). A crop begins in the middle of its part (of two middles, at the later one), so that a clip
    always has the same embedding; or, as LAION has it always, anywhere in it. 0 stands for an empty part.

    >>> crop_starts(1, 1901, 1001, False)  # parts 0 … 300, 301 … 600, 601 … 900
    tensor([[150, 451, 751]])
    """
    share, rest = divmod(total - frames + 1, CROPS)
    lengths = torch.tensor([share + (part < rest) for part in range(CROPS)])
    begins = (lengths.cumsum(0) - lengths) * (lengths > 0)
    place = torch.rand(clips, CROPS) if at_random else torch.full((clips, CROPS), 0.5)
    return begins + (place * lengths).long()
