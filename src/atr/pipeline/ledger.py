"""What was wrong with the data of a run: counted, listed, and too much of it refused."""

from collections.abc import Sequence

from atr.errors import DataError
from atr.types import BadSample, Batch


class Ledger:
    """Counts what the loader skipped or remarked, and stops the run when too much is bad.

    Args:
        clips: in the set.
        limit: largest share of them that may be bad.
        lost: known as bad before the first batch.
    """

    def __init__(self, clips: int, limit: float, lost: Sequence[BadSample] = ()) -> None:
        self.clips, self.limit = clips, limit
        self.bad = {one.key: one for one in lost}
        self.notes: dict[str, set[str]] = {}  # remark -> keys
        self.heard = self.clipped = 0  # waveform samples, and those of them beyond [-1, 1]

    def add(self, batch: Batch) -> None:
        """Takes in a batch.

        Raises:
            DataError: more than `limit` of the clips are bad.
        """
        self.bad |= {one.key: one for one in batch.bad}
        self.heard += batch.waveform.numel()
        self.clipped += batch.clipped
        for sample in batch.samples:
            for note in sample.notes:
                self.notes.setdefault(note, set()).add(sample.key)
        if len(self.bad) > self.limit * self.clips:
            raise DataError(
                f"{len(self.bad)} of {self.clips} clips cannot be used, more than bad_samples={self.limit}:\n"
                f"{list_bad(list(self.bad.values()))}\nRemove or mend them, or raise bad_samples"
            )

    def lines(self) -> list[str]:
        """What to tell the user at the end; nothing when all was well."""
        lines = [f"{len(keys)} clips: {note} (e.g. {min(keys)})" for note, keys in sorted(self.notes.items())]
        if self.clipped:
            share = self.clipped / self.heard
            lines.append(f"{self.clipped} waveform samples ({share:.2%}) lay beyond full scale and were clipped")
        if self.bad:
            skipped = sorted(self.bad.values(), key=lambda one: one.key)
            lines.append(
                f"{len(self.bad)} of {self.clips} clips were skipped:\n{list_bad(skipped, limit=len(skipped))}"
            )
        return lines


def list_bad(bad: Sequence[BadSample], limit: int = 20) -> str:
    """One line for each bad sample, at most `limit` of them."""
    lines = [f"  {one.key}: {one.reason}" for one in bad[:limit]]
    return "\n".join(lines + ([f"  … and {len(bad) - limit} more"] if len(bad) > limit else []))
