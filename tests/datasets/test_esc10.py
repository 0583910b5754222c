"""ESC-10 from a three-row fixture of the publisher's shape."""

from pathlib import Path

import pytest

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw
from atr.datasets.esc10 import CARD, LABELS, Attribution, read, read_attributions
from atr.types import BadSample, Clip
from tests.conftest import SHARED

README = """# ESC-10
- 001 - Dog bark
- [1-100-A.ogg]:  clip derived from big dog (loud).wav (http://www.freesound.org/people/ann/sounds/100/) by ann [CC0]
- [2-200-B.ogg]: clip derived from Rain, again (http://www.freesound.org/people/Bob%20B/sounds/200/) by Bob B [CC-BY]
- [5-300-A.ogg]: clip derived from cock (http://www.freesound.org/people/c/sounds/300/) by c [CC-Sampling+]
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "README.txt").write_text(README)
    for folder, name in [("dog_bark", "1-100-A"), ("002 - Rain", "2-200-B"), ("rooster", "5-300-A")]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.ogg").touch()
    return tmp_path


def read_all(root: Path, audio: Path | None) -> list[Clip | BadSample]:
    return [one for split in CARD.splits for one in read(Raw(root, AudioFiles(audio)), split)]


def test_counts_and_the_first_clip(root):
    clips = read_all(root, root)
    assert clips[0] == Clip(
        id="1-100-A", audio=str(root / "dog_bark" / "1-100-A.ogg"), labels=["dog_bark"], split="fold1",
        title="big dog (loud).wav", source="freesound:100", dataset="ESC-10", licence="CC0",
    )  # fmt: skip
    assert [(clip.split, clip.labels) for clip in clips[1:]] == [("fold2", ["rain"]), ("fold5", ["rooster"])]
    assert list(read_attributions(root))[1] == Attribution(
        "2-200-B.ogg", 2, "200", "Rain, again", "http://www.freesound.org/people/Bob%20B/sounds/200/", "Bob B", "CC-BY"
    )


def test_without_sounds_the_table_still_gives_clips(root):
    clips = read_all(root, None)
    assert [(clip.audio, clip.labels) for clip in clips] == [
        ("1-100-A.ogg", []),
        ("2-200-B.ogg", []),
        ("5-300-A.ogg", []),
    ]


def test_what_is_wrong_is_listed_and_the_rest_is_read(root):
    (root / "002 - Rain" / "2-200-B.ogg").unlink()
    (root / "rooster").rename(root / "poultry")
    (root / "README.txt").write_text(README + "- [1-400-A.ogg]: something else\n")
    bad = [one for one in read_all(root, root) if isinstance(one, BadSample)]
    assert {one.key for one in bad} == {"2-200-B", "5-300-A", f"{root / 'README.txt'}:6"}
    reasons = " ".join(one.reason for one in bad)
    assert f"no file '2-200-B.ogg' below {root}" in reasons
    assert "'poultry', which is no class; there are baby_cry, chainsaw" in reasons
    assert "is no attribution as expected: '- [1-400-A.ogg]: something else'" in reasons
    (root / "README.txt").unlink()
    with pytest.raises(MissingSplit, match=r"README\.txt is missing: the publisher's ESC-10 folder should hold it"):
        read_all(root, root)


@pytest.mark.skipif(not (SHARED / "data" / "esc10").is_dir(), reason="../shared is not here")
def test_the_publishers_own_folder():
    clips = read_all(SHARED / "data" / "esc10", SHARED / "data" / "esc10")
    assert len(clips) == 400 and sum("Sampling+" in clip.licence for clip in clips) == 2
    assert {label: sum(clip.labels == [label] for clip in clips) for label in LABELS} == dict.fromkeys(LABELS, 40)
