"""Reads a split of a corpus, as `atr prepare` does."""

from pathlib import Path

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Corpus, Raw
from atr.types import BadSample, Clip


def read_split(corpus: Corpus, root: Path, split: str, audio: Path | None = None) -> tuple[list[Clip], list[BadSample]]:
    """The clips, and what is bad; `audio` is the folder of the sounds, None when only the tables matter."""
    found = list(corpus.read(Raw(root, AudioFiles(audio)), split))
    return [one for one in found if isinstance(one, Clip)], [one for one in found if isinstance(one, BadSample)]


def put(path: Path, text: str = "") -> Path:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
