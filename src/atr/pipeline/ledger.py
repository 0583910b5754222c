"""What was wrong with the data of a run: counted, listed, and too much of it refused."""

import re
from collections.abc import Sequence

from atr.errors import DataError
from atr.types import BadSample, Batch

CLIPS_OF_A_REMARK = 10_000  # remembered by name; beyond it the count says "more than"


class Ledger:
    """Counts what the loader skipped or remarked, and stops the run when too much is bad.

    Args:
        clips: in the set; None where nobody knows (streaming): then the clips that have come are counted.
        limit: largest share of them that may be bad.
        lost: known as bad before the first batch.
    """

    def __init__(self, clips: int | None, limit: float, lost: Sequence[BadSample] = ()) -> None:
        self.size, self.limit = clips, limit
        self.bad = {one.key: one for one in lost}
        self.notes: dict[str, tuple[str, set[str]]] = {}  # remark without its numbers -> the first one, keys
        self.come = self.come_elsewhere = 0  # clips, here and on other devices
        self.heard = self.clipped = 0  # waveform samples, and those of them beyond [-1, 1]; on this device

    @property
    def clips(self) -> int:
        """Clips of the set, or those that have come."""
        return self.come + self.come_elsewhere if self.size is None else self.size

    def add(self, batch: Batch) -> None:
        """Takes in a batch.

        Raises:
            DataError: more than `limit` of the clips are bad.
        """
        self.bad |= {one.key: one for one in batch.bad}
        self.come += len(batch.samples) + len(batch.bad)
        self.heard += batch.waveform.numel()
        self.clipped += batch.clipped
        for sample in batch.samples:
            for note in sample.notes:
                self._note(note, {sample.key})
        self.check()

    def merge(self, others: Sequence["Ledger"]) -> None:
        """Takes in the bad clips and the remarks of the other devices' ledgers; may be repeated."""
        for other in others:
            self.bad |= other.bad
            for note, keys in other.notes.values():
                self._note(note, keys)
        self.come_elsewhere = sum(other.come for other in others)

    def check(self) -> None:
        """Refuses too many bad clips; of a stream, only when a single one does not decide.

        Raises:
            DataError: more than `limit` of the clips are bad.
        """
        count = sum(one.clips for one in self.bad.values())
        if count > max(self.limit * self.clips, 0 if self.size is not None else 1):
            raise DataError(
                f"{count} of {self.clips} clips cannot be used, more than bad_samples={self.limit}:\n"
                f"{list_bad(list(self.bad.values()))}\nRemove or mend them, or raise bad_samples"
            )

    def lines(self) -> list[str]:
        """What to tell the user at the end; nothing when all was well."""
        lines = []
        for _, (note, keys) in sorted(self.notes.items()):
            more = "more than " if len(keys) >= CLIPS_OF_A_REMARK else ""
            lines.append(f"{more}{len(keys)} clips: {note} (e.g. {min(keys)})")
        if self.clipped:
            share = self.clipped / self.heard
            lines.append(f"{self.clipped} waveform samples ({share:.2%}) lay beyond full scale and were clipped")
        if self.bad:
            skipped = sorted(self.bad.values(), key=lambda one: one.key)
            count = sum(one.clips for one in skipped)
            lines.append(f"{count} of {self.clips} clips were skipped:\n{list_bad(skipped, limit=len(skipped))}")
        return lines

    def _note(self, note: str, keys: set[str]) -> None:
        """Enters a remark; those that differ in numbers only are one."""
        _, known = self.notes.setdefault(re.sub(r"\d+(\.\d+)?", "N", note), (note, set()))
        if len(known) < CLIPS_OF_A_REMARK:
            known |= keys


def list_bad(bad: Sequence[BadSample], limit: int = 20) -> str:
    """One line for each bad sample, at most `limit` of them."""
    lines = [f"  {one.key}: {one.reason}" + (f" (about {one.clips} clips)" if one.clips > 1 else "") for one in bad]
    return "\n".join(lines[:limit] + ([f"  … and {len(bad) - limit} more"] if len(bad) > limit else []))
