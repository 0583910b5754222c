"""ESC-10: 400 five-second clips of 10 classes in 5 folds (K. J. Piczak, DOI 10.7910/DVN/YDEPUT).

Licence: CC BY 3.0 for the set; each clip is CC0, CC BY or Sampling+ by its author (`README.txt`, section
"Clip attribution"). Sampling rate 44.1 kHz, mono, OGG Vorbis. Labels, no captions. Clips of one recording
share a fold. Homepage: https://github.com/karoldvl/ESC-10
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atr.errors import DataError
from atr.types import Clip

LABELS = (
    "baby_cry", "chainsaw", "clock_tick", "dog_bark", "fire_crackling",
    "helicopter", "person_sneeze", "rain", "rooster", "sea_waves",
)  # fmt: skip
_ATTRIBUTION = re.compile(
    r"^- \[(?P<file>(?P<fold>\d)-(?P<source>\d+)-[A-Z]\.ogg)\]:\s+clip derived from (?P<title>.*) "
    r"\((?P<url>https?://\S+)\) by (?P<author>.*) \[(?P<licence>[^\]]+)\]\s*$"
)


@dataclass(frozen=True)
class Attribution:
    """What `README.txt` says about a clip."""

    file: str
    fold: int
    source: str  # Freesound id
    title: str
    url: str
    author: str
    licence: str


def read_attributions(root: Path) -> list[Attribution]:
    """The attribution lines of the publisher's `README.txt`, by file name.

    Raises:
        DataError: the file is missing, or a line of that section has another form.
    """
    path = root / "README.txt"
    if not path.is_file():
        raise DataError(f"{path} is missing; {root} should be the publisher's ESC-10 folder")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if match := _ATTRIBUTION.match(line):
            fields = match.groupdict()
            found.append(Attribution(**fields | {"fold": int(fields["fold"])}))  # type: ignore[arg-type]
        elif line.startswith("- [") and ".ogg]" in line:
            raise DataError(f"{path}:{number}: not an attribution line as expected: {line.strip()!r}")
    return sorted(found, key=lambda attribution: attribution.file)


def load(root: Path, captions: Mapping[str, Sequence[str]]) -> list[Clip]:
    """The publisher's folder -> clips, `split` = `fold1` … `fold5`, `source` = Freesound id.

    Args:
        root: holds `README.txt` and a folder per class.
        captions: for each label what its clips are given; the publisher has none.

    Raises:
        DataError: a sound file is missing, or a class has no captions.
    """
    if missing := set(LABELS) - set(captions):
        raise DataError(f"no captions for {', '.join(sorted(missing))}")
    files = {path.name: path for label in LABELS for path in sorted((root / label).glob("*.ogg"))}
    clips = []
    for one in read_attributions(root):
        if one.file not in files:
            raise DataError(f"{root}: {one.file} is listed in README.txt but is in none of the class folders")
        path = files[one.file]
        clips.append(
            Clip(
                id=path.stem, audio=str(path), captions=list(captions[path.parent.name]), labels=[path.parent.name],
                split=f"fold{one.fold}", title=one.title, source=one.source, dataset="ESC-10",
                licence=one.licence,
            )
        )  # fmt: skip
    return clips
