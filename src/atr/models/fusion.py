"""Feature fusion: clips longer than the model's, as a whole and by three crops (`aff_2d` of LAION-CLAP).

The whole is squeezed into the frames of one clip, and three crops of that length are embedded at full resolution;
what each place takes from either is learnt (attentional feature fusion, arXiv 2009.14082). Source: LAION-AI/CLAP at
1fd4c37, `clap_module/feature_fusion.py`, `clap_module/htsat.py`, `training/data.py`.
"""

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
        """`(B, N, C)` twice, in one order of tokens -> `(B, N, C)`."""
        if self.training and len(whole) == 1:  # the mean of a single clip has no variance; as LAION does it
            return self(whole.repeat(2, 1, 1), crops.repeat(2, 1, 1))[:1]
        both = (whole + crops).transpose(1, 2).unsqueeze(3)  # (B, C, N, 1)
        share = torch.sigmoid(self.local_att(both) + self.global_att(both)).squeeze(3).transpose(1, 2)
        return 2 * whole * share + 2 * crops * (1 - share)


def attention(dim: int, *first: nn.Module) -> nn.Sequential:
    """Two layers of width `dim / 4` and `dim` on each place alone, after other modules."""
    inner = dim // REDUCTION
    return nn.Sequential(
        *first, nn.Conv2d(dim, inner, 1), MelNorm(inner), nn.ReLU(), nn.Conv2d(inner, dim, 1), MelNorm(dim)
    )


def four_views(log_mel: Tensor, frames: int) -> Tensor:
    """Log-mels of clips longer than the model's -> the whole in short, and crops of its front, middle and back.

    The places where a crop can begin are cut into three parts; each crop begins in the middle of its part. (LAION
    draws a place from each part by chance, and a clip then has another embedding each time.)

    Args:
        log_mel: `(B, F, M)` in dB, F > `frames`.
        frames: of each view.

    Returns:
        `(B, 4, frames, M)`: whole, front, middle, back.
    """
    size = (frames, log_mel.shape[2])
    whole = F.interpolate(log_mel.unsqueeze(1), size, mode="bilinear", align_corners=False, antialias=False)
    crops = [log_mel[:, start : start + frames] for start in crop_starts(log_mel.shape[1], frames)]
    return torch.cat([whole, torch.stack(crops, dim=1)], dim=1)


def crop_starts(total: int, frames: int) -> list[int]:
    """First frames of the crops: the middles of three nearly equal parts of 0 … total - frames; 0 for an empty part.

    The parts are those of `numpy.array_split`; of two middles the later one.

    >>> crop_starts(1901, 1001)  # parts 0 … 300, 301 … 600, 601 … 900
    [150, 451, 751]
    """
    share, rest = divmod(total - frames + 1, CROPS)
    starts, begin = [], 0
    for part in range(CROPS):
        length = share + (part < rest)
        starts.append(begin + length // 2 if length else 0)
        begin += length
    return starts
