"""Speed and memory without a change to the model: compilation, recomputation, and how a CPU computes."""

import ctypes
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from atr.errors import UsageError
from atr.models.clap import Clap

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
ROUNDING = 1e-6  # relative to the product of the absolute values; float32 stays below 3e-7, bf16 is at 1e-4


def set_compute(model: Clap, compile: bool = False, recompute: Sequence[str] = ()) -> None:
    """Applies the configuration's `compute` to a model, in place; weights and their names stay.

    Args:
        model: before its first step.
        compile: `torch.compile` of both towers; the log-mel stays outside. Captions may have any length.
        recompute: towers (`audio`, `text`) whose blocks are computed again in the backward pass instead of
            keeping their activations.

    Raises:
        UsageError: an unknown tower, or one that cannot recompute.
    """
    if unknown := [name for name in recompute if name not in ("audio", "text")]:
        raise UsageError(f"compute.recompute names {unknown[0]!r}; allowed: audio, text")
    if "audio" in recompute:
        model.audio.recompute()
    if "text" in recompute:
        inner = model.text.inner
        if not inner.supports_gradient_checkpointing:
            raise UsageError(f"compute.recompute names text, but {type(inner).__name__} cannot; leave it out")
        inner.gradient_checkpointing_enable({"use_reentrant": False})
    if compile:
        model.audio.compile()
        model.text.compile(dynamic=True)


@contextmanager
def fast_cpu() -> Iterator[None]:
    """Trains faster on a CPU within: freed memory is kept for the next tensor, and float32 products go to oneDNN.

    Without the first, glibc hands every large tensor's memory back to the system, which clears it page by page
    when the next one is made. Without the second, MKL uses half of what an AMD processor can do.
    """
    keep_memory()
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # PyTorch 2.9
    before = matmul.fp32_precision if matmul else None
    if matmul:
        matmul.fp32_precision = "bf16" if onednn_is_float32() else before
    try:
        yield
    finally:
        if matmul:
            matmul.fp32_precision = before


def keep_memory() -> None:
    """Freed memory stays with this process and the ones it forks, for good (glibc only)."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def onednn_is_float32() -> bool:
    """Whether products that are allowed to round to bf16 still do not on this processor.

    That permission is the only way to have PyTorch take oneDNN for float32. Processors without AMX, and all but
    ARM's, have no kernel that makes use of it and multiply in float32, but with AVX-512 on any maker's.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009  # an attribute that its stubs lack
    before = matmul.fp32_precision
    if not torch.backends.mkldnn.is_available() or platform.machine() not in ("x86_64", "AMD64"):
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 256, 256, generator=generator) for _ in range(2))
    try:
        matmul.fp32_precision = "bf16"
        return max(_rounding(a, b), _rounding(a[0], b[0])) < ROUNDING
    finally:
        matmul.fp32_precision = before


def _rounding(a: Tensor, b: Tensor) -> float:
    """Largest error of `a @ b` against float64, relative to |a| @ |b|."""
    error = ((a @ b).double() - a.double() @ b.double()).abs() / (a.abs() @ b.abs())
    return float(error.max())
