"""How much memory a piece of work takes, as the allocator of the CPU saw it."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

from torch.profiler import ProfilerActivity, profile


def memory_of(work: Callable[[], Any]) -> tuple[int, int]:
    """Bytes at the highest point, and bytes still held when `work` returns (its result among them)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        result = work()
    assert trace.profiler is not None
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = list(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    del result
    return max(held), held[-1]
