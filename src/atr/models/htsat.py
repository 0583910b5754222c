"""HTSAT as CLAP uses it: a Swin transformer over a log-mel that is folded into a square picture.

The stages (`window.py`) carry timm's names and compute the same function as timm's and as LAION's own Swin
(DOI 10.1109/ICASSP43922.2022.9746312; LAION-AI/CLAP at 1fd4c37, `clap_module/htsat.py`). The heads for AudioSet labels
are left out: the contrastive loss gives them no gradient.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atr.models.fusion import CROPS, AttentionalFusion
from atr.models.norm import MelNorm
from atr.models.window import Move, Stage, window_order

PATCH = 4


class HTSAT(nn.Module):
    """Log-mel -> one vector per clip.

    Args:
        n_mels: mel bins M of the input.
        picture_size: side of the square the log-mel is folded into; a multiple of `n_mels`. Frames are
            stretched to `picture_size * picture_size / n_mels`.
        embed_dim: width of the first stage; it doubles at each further one.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        window: side of an attention window, in patches.
        init_std: standard deviation of the linear layers' initial weights; CLAP's 0.02 is small for narrow models.
        drop_path: largest share of DropPath; it grows linearly from 0 over the blocks.
        spec_augment: stripes set to 0 in training.
        attention: `plain`, `sdpa`, or `auto`: sdpa on a GPU, plain on a CPU (there, sdpa with the window mask
            was slower: `benchmarks/attention.py`). Both compute the same.
        fusion: whether clips longer than the model's can be given as four views (`models/fusion.py`).

    Attributes:
        dim: width of the output.
        fusion: what brings whole and crops together; None without fusion. local_patch_embed: embeds the crops.
    """

    def __init__(
        self,
        n_mels: int = 64,
        picture_size: int = 256,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        window: int = 8,
        init_std: float = 0.02,
        drop_path: float = 0.1,
        spec_augment: "SpecAugment | None" = None,
        attention: Literal["auto", "plain", "sdpa"] = "auto",
        fusion: bool = False,
    ) -> None:
        super().__init__()
        if picture_size % n_mels or picture_size % (PATCH * 2 ** (len(depths) - 1)):
            raise ValueError(
                f"picture_size={picture_size} must be a multiple of n_mels={n_mels} "
                f"and of {PATCH * 2 ** (len(depths) - 1)} (patch size and halvings)"
            )
        if attention not in ("auto", "plain", "sdpa"):
            raise ValueError(f"attention is {attention!r}; allowed: auto, plain, sdpa")
        self.n_mels, self.picture_size, self.attention = n_mels, picture_size, attention
        self.dim = embed_dim * 2 ** (len(depths) - 1)
        self.mel_norm = MelNorm(n_mels)  # over mel bins as channels
        self.spec_augment = spec_augment
        self.patch_embed = nn.Conv2d(1, embed_dim, kernel_size=PATCH, stride=PATCH)
        self.local_patch_embed = self.fusion = None
        if fusion:
            # Three crops side by side are as wide as the whole: each of their patches is three times as wide.
            local = (PATCH, CROPS * PATCH)
            self.local_patch_embed = nn.Conv2d(1, embed_dim, kernel_size=local, stride=local)
            self.fusion = AttentionalFusion(embed_dim)
        self.patch_norm = nn.LayerNorm(embed_dim)
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").split(list(depths))
        side = picture_size // PATCH
        raster = torch.arange(side * side, device="cpu")
        order = window_order(side, min(window, side), 0)
        self.to_windows = Move(raster, order)
        self.layers = nn.ModuleList()
        for i, (depth, n_heads, rate) in enumerate(zip(depths, heads, rates, strict=True)):
            width = embed_dim * 2**i
            stage = Stage(
                width // 2 if i else width, width, side, depth, n_heads, window, rate.tolist(), order, merge=i > 0
            )
            self.layers.append(stage)
            side, order = stage.side, stage.order
        self.to_picture = Move(order, raster[: side * side])
        self.last_side = side
        self.norm = nn.LayerNorm(self.dim)
        self.apply(partial(_initialise, std=init_std))

    def forward(self, log_mel: Tensor, longer: Tensor | None = None) -> Tensor:
        """Log-mel -> `(B, dim)`: the mean over all places of the last stage. Arguments as of `frames`."""
        return self.frames(log_mel, longer).mean(dim=1)

    def frames(self, log_mel: Tensor, longer: Tensor | None = None) -> Tensor:
        """Log-mel -> `(B, N, dim)` along time; N = 32 for 10-s clips and 256 x 256 pictures.

        Source: the un-folding of `fine_grained_embedding` in LAION's `forward_features`.

        Args:
            log_mel: `(B, F, M)` in dB, or with fusion `(B, 4, F, M)`: four views of each clip.
            longer: bool `(B,)`: the clips whose crops are used; of the others the first view alone counts. None:
                those of all clips. Only with four views.

        Raises:
            ValueError: views that this model cannot take.
        """
        fused = self.attention == "sdpa" or (self.attention == "auto" and log_mel.device.type != "cpu")
        views = log_mel.unsqueeze(1) if log_mel.ndim == 3 else log_mel  # (B, V, F, M)
        if views.shape[1] != 1 and (self.fusion is None or views.shape[1] != 1 + CROPS):
            takes = "(B, F, M)" + ("" if self.fusion is None else f" or (B, {1 + CROPS}, F, M)")
            raise ValueError(f"the log-mel has the shape {tuple(log_mel.shape)}; this model takes {takes}")
        if longer is not None and views.shape[1] == 1:
            raise ValueError(f"longer goes with four views, but the log-mel has the shape {tuple(log_mel.shape)}")
        x = views.flatten(0, 1)
        x = self.mel_norm(x.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)  # (B * V, F, M)
        if self.training and self.spec_augment is not None:
            x = self.spec_augment(x)
        pictures = self.fold(x).unflatten(0, views.shape[:2])  # (B, V, 1, S, S)
        x = self.embed(pictures[:, 0])
        if views.shape[1] > 1:
            x = self.fuse(x, pictures[:, 1:], longer)
        x = self.patch_norm(x)
        for stage in self.layers:
            x = stage(x, fused)
        x = self.to_picture(self.norm(x))
        segments, side = self.picture_size // self.n_mels, self.last_side
        x = x.reshape(x.shape[0], segments, side // segments, side, self.dim)  # (B, segment, frequency, time, C)
        return x.mean(dim=2).reshape(x.shape[0], segments * side, self.dim)

    def recompute(self) -> None:
        """Computes each block again in the backward pass, in exchange for its activations' memory."""
        for stage in self.layers:
            stage.recompute = True  # type: ignore[assignment]

    def embed(self, picture: Tensor) -> Tensor:
        """`(B, 1, S, S)` -> one token for each patch, `(B, N, C)`, in the order of the first windows.

        A convolution whose stride is its width is a linear layer on patches; so computed it was faster.
        """
        side = self.picture_size // PATCH
        patches = picture.view(-1, side, PATCH, side, PATCH).transpose(2, 3).reshape(-1, side * side, PATCH * PATCH)
        return F.linear(self.to_windows(patches), self.patch_embed.weight.flatten(1), self.patch_embed.bias)

    def fuse(self, whole: Tensor, crops: Tensor, longer: Tensor | None) -> Tensor:
        """Tokens of the whole `(B, N, C)` and pictures of the crops `(B, 3, 1, S, S)` -> `(B, N, C)`.

        The crops' tokens stand side by side, the first one's to the left; columns that are left over are 0.
        """
        if longer is not None:
            rows = longer.nonzero().squeeze(1)
            if len(rows) == 0:
                return whole
            return whole.index_copy(0, rows, self.fuse(whole[rows], crops[rows], None).to(whole.dtype))
        assert self.fusion is not None and self.local_patch_embed is not None
        side = self.picture_size // PATCH
        tokens = self.local_patch_embed(crops.flatten(0, 1)).unflatten(0, (-1, CROPS))  # (B, 3, C, S / 4, S / 12)
        tokens = tokens.permute(0, 3, 1, 4, 2).flatten(2, 3)  # (B, row, column, C)
        tokens = F.pad(tokens, (0, 0, 0, side - tokens.shape[2])).flatten(1, 2)
        return self.fusion(whole, self.to_windows(tokens))

    def fold(self, x: Tensor) -> Tensor:
        """`(B, F, M)` -> picture `(B, 1, S, S)`: S / M segments of time, from top to bottom.

        Row `k * M + f`, column `c` holds mel bin f of frame `k * S + c`, after the frames are stretched.

        Raises:
            ValueError: more frames than the picture holds.
        """
        segments = self.picture_size // self.n_mels
        target = self.picture_size * segments
        if x.shape[1] > target:
            raise ValueError(f"{x.shape[1]} frames do not fit into a picture of {target}; cut the clip or enlarge it")
        x = x.unsqueeze(1)  # (B, 1, F, M)
        if x.shape[2] < target:
            x = F.interpolate(x, (target, self.n_mels), mode="bicubic", align_corners=True)
        x = x.reshape(x.shape[0], segments, self.picture_size, self.n_mels)  # (B, segment, column, bin)
        return x.transpose(2, 3).reshape(x.shape[0], 1, self.picture_size, self.picture_size)


class SpecAugment(nn.Module):
    """Zeroes stripes of time and frequency after the mel norm (DOI 10.21437/Interspeech.2019-2680).

    As torchlibrosa's `SpecAugmentation`: each stripe's width is uniform in [0, `*_width`), its place uniform.

    Args:
        time_stripes, mel_stripes: how many.
        time_width: frames. mel_width: bins.
    """

    def __init__(self, time_stripes: int = 2, time_width: int = 64, mel_stripes: int = 2, mel_width: int = 8) -> None:
        super().__init__()
        self.time_stripes, self.time_width = time_stripes, time_width
        self.mel_stripes, self.mel_width = mel_stripes, mel_width

    def forward(self, x: Tensor) -> Tensor:
        """`(B, F, M)` -> the same with stripes of 0."""
        time = self._keep(x, x.shape[1], self.time_stripes, self.time_width)
        mel = self._keep(x, x.shape[2], self.mel_stripes, self.mel_width)
        return x * time.unsqueeze(2) * mel.unsqueeze(1)

    @staticmethod
    def _keep(x: Tensor, length: int, stripes: int, width: int) -> Tensor:
        """`(B, length)`: 0 inside a stripe, 1 elsewhere, without a wait for the device."""
        size = torch.floor(torch.rand(len(x), stripes, 1, device=x.device) * min(width, length))
        start = torch.floor(torch.rand(len(x), stripes, 1, device=x.device) * (length - size))
        place = torch.arange(length, device=x.device)
        inside = (place >= start) & (place < start + size)  # (B, stripes, length)
        return (~inside.any(dim=1)).to(x.dtype)


def _initialise(module: nn.Module, std: float) -> None:
    """Linear layers: truncated normal and bias 0 (a timm stage on its own does not do this)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
