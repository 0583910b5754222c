"""ESC-10: 400 five-second clips of ten classes. Its publisher's folder holds `README.txt` and a folder per class."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from atr.datasets.corpus import Card, Raw, need_file
from atr.types import BadSample, Clip

LABELS = (
    "baby_cry", "chainsaw", "clock_tick", "dog_bark", "fire_crackling",
    "helicopter", "person_sneeze", "rain", "rooster", "sea_waves",
)  # fmt: skip
CARD = Card(
    name="ESC-10",
    homepage="https://github.com/karoldvl/ESC-10",
    licence="CC BY 3.0 for the set; each clip is CC0, CC BY or Sampling+ by its author (README.txt)",
    splits=("fold1", "fold2", "fold3", "fold4", "fold5"),
    captions="none: labels",
    citation="Piczak: ESC: Dataset for Environmental Sound Classification. ACM MM 2015, doi 10.1145/2733373.2806390",
    faults=(
        "two clips are under Sampling+, which forbids advertising use and is retired; the demo corpus leaves them out",
        "files are 3.6 to 7.2 s long, not 5 s",
    ),
)
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


def read_attributions(root: Path) -> Iterator[Attribution | BadSample]:
    """The attribution lines of the publisher's `README.txt`, and those lines of that section of another form.

    Raises:
        MissingSplit: the file is missing.
    """
    path = need_file(
        root / "README.txt", "the publisher's ESC-10 folder should hold it, beside ten folders of ogg files"
    )
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if match := _ATTRIBUTION.match(line):
            fields = match.groupdict()
            yield Attribution(**fields | {"fold": int(fields["fold"])})  # type: ignore[arg-type]
        elif line.startswith("- [") and ".ogg]" in line:
            yield BadSample(f"{path}:{number}", f"is no attribution as expected: {line.strip()!r}")


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """The clips of a fold; the label is the name of the sound's folder, so without sounds there are no labels."""
    for one in read_attributions(raw.root):
        if isinstance(one, BadSample):
            yield one
            continue
        if split != f"fold{one.fold}":
            continue
        clip = raw.audio.named(
            Clip(
                id=Path(one.file).stem, audio="", split=split, title=one.title, source=f"freesound:{one.source}",
                dataset=CARD.name, licence=one.licence,
            ),
            one.file,
        )  # fmt: skip
        yield clip if isinstance(clip, BadSample) or raw.audio.folder is None else _labelled(clip)


def _labelled(clip: Clip) -> Clip | BadSample:
    folder = Path(clip.audio).parent.name  # `001 - Dog bark` in the archive, `dog_bark` in the repository
    label = re.sub(r"^\d+ - ", "", folder).lower().replace(" ", "_")
    if label not in LABELS:
        return BadSample(clip.id, f"{clip.audio} lies in {folder!r}, which is no class; there are {', '.join(LABELS)}")
    return replace(clip, labels=[label])
