"""The norm over mel bins, with the statistics of the whole global batch."""

import torch
from torch import Tensor, nn

from atr.gather import gather, place


class MelNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that in training takes mean and variance over all ranks, on any device, in float32.

    One process: `nn.BatchNorm2d` itself, bit for bit. Several: what one process would compute and keep for all rows,
    to rounding; `nn.SyncBatchNorm` does that on GPUs only. All ranks must hold equally many rows.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(B, M, F, 1)` -> the same shape."""
        ranks = place()[1]
        if not self.training or ranks == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
            means, variances = gather(torch.stack([mean, variance]).unsqueeze(0)).unbind(1)  # (W, M) each
            mean = means.mean(0)
            variance = variances.mean(0) + (means - mean).square().mean(0)  # within the ranks and between them
            self._keep(mean.detach(), variance.detach(), ranks * x.numel() // x.shape[1])
            scale = self.weight * torch.rsqrt(variance + self.eps)
            return (x.float() - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]

    def _keep(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Updates the running statistics as `nn.BatchNorm2d` does: with the unbiased variance of a bin's `values`."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (values / (values - 1)), share)
