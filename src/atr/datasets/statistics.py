"""What a corpus is like: how much there is of it, how long its captions are, which words they use.

The columns of the Auto-ACD paper's Table 5 (arXiv 2309.11500): quantity, mean length, vocabulary, environment.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from atr.datasets.environment import names_environment
from atr.types import Clip

MOST_FREQUENT = 30  # words that are given by name
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass
class Statistics:
    """The counts of a corpus; everything else follows from them.

    Attributes:
        clips: of which `captioned` have a caption.
        timed: clips whose duration is known.
        seconds: of these together.
        environments: captions that name an environment.
        words: word -> how often it stands in the captions.
        lengths: words of a caption -> captions.
        durations: whole seconds (rounded down) of a clip -> clips.
    """

    clips: int = 0
    captioned: int = 0
    timed: int = 0
    seconds: float = 0.0
    environments: int = 0
    words: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    durations: Counter[int] = field(default_factory=Counter)

    @property
    def captions(self) -> int:
        """How many there are, over all clips."""
        return self.lengths.total()

    def numbers(self) -> dict[str, Any]:
        """The row of the table. A mean or share of nothing is None."""
        captions = self.captions
        return {
            "clips": self.clips,
            "hours": self.seconds / 3600 if self.timed else None,
            "captions": captions,
            "captions_per_clip": captions / self.clips if self.clips else None,
            "mean_words": self.words.total() / captions if captions else None,
            "vocabulary": len(self.words),
            "environment": self.environments / captions if captions else None,
            "mean_seconds": self.seconds / self.timed if self.timed else None,
            "without_caption": self.clips - self.captioned,
            "without_duration": self.clips - self.timed,
        }


def describe(clips: Iterable[Clip]) -> Statistics:
    """Counts in one pass; memory grows with the vocabulary only.

    Blank captions do not count. A clip's duration is `duration`, else `end - start`.
    """
    found = Statistics()
    for clip in clips:
        found.clips += 1
        captions = [caption for caption in clip.captions if caption.strip()]
        found.captioned += bool(captions)
        for caption in captions:
            words = words_of(caption)
            found.words.update(words)
            found.lengths[len(words)] += 1
            found.environments += names_environment(caption)
        if (seconds := _seconds(clip)) is not None:
            found.timed += 1
            found.seconds += seconds
            found.durations[int(seconds)] += 1
    return found


def words_of(caption: str) -> list[str]:
    """The words of a caption: lower-case runs of letters and digits, with apostrophes inside them.

    A hyphen parts words. Scripts without blanks between words (Chinese, Thai) give one word for each run.

    >>> words_of("A dog's high-pitched bark, at 10 o’clock")
    ['a', "dog's", 'high', 'pitched', 'bark', 'at', '10', "o'clock"]
    """
    if not caption.isascii():
        caption = unicodedata.normalize("NFC", caption).replace("’", "'")
    return _WORD.findall(caption.lower())


def _seconds(clip: Clip) -> float | None:
    if clip.duration is not None:
        return clip.duration
    return max(0.0, clip.end - (clip.start or 0.0)) if clip.end is not None else None
