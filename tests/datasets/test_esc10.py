"""ESC-10 from a three-row fixture of the publisher's shape."""

import pytest
import soundfile

from atr.datasets.esc10 import LABELS, load, read_attributions
from atr.errors import DataError
from tests.conftest import SHARED, tone

README = """# ESC-10
- 001 - Dog bark
- [1-100-A.ogg]:  clip derived from big dog (loud).wav (http://www.freesound.org/people/ann/sounds/100/) by ann [CC0]
- [2-200-B.ogg]: clip derived from Rain, again (http://www.freesound.org/people/Bob%20B/sounds/200/) by Bob B [CC-BY]
- [5-300-A.ogg]: clip derived from cock (http://www.freesound.org/people/c/sounds/300/) by c [CC-Sampling+]
"""
CAPTIONS = {label: [f"a {label}"] for label in LABELS}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "README.txt").write_text(README)
    for label, name in [("dog_bark", "1-100-A"), ("rain", "2-200-B"), ("rooster", "5-300-A")]:
        (tmp_path / label).mkdir()
        soundfile.write(tmp_path / label / f"{name}.ogg", tone(300), 16_000)
    return tmp_path


def test_counts_and_the_first_clip(root):
    clips = load(root, CAPTIONS)
    assert [clip.split for clip in clips] == ["fold1", "fold2", "fold5"]
    first = clips[0]
    assert (first.id, first.source, first.title, first.licence) == ("1-100-A", "100", "big dog (loud).wav", "CC0")
    assert (first.labels, first.captions, first.dataset) == (["dog_bark"], ["a dog_bark"], "ESC-10")
    assert first.audio == str(root / "dog_bark" / "1-100-A.ogg")
    assert read_attributions(root)[1].author == "Bob B"


def test_what_is_missing_is_named(root):
    (root / "rain" / "2-200-B.ogg").unlink()
    with pytest.raises(DataError, match=r"2-200-B\.ogg is listed"):
        load(root, CAPTIONS)
    with pytest.raises(DataError, match="no captions for rain"):
        load(root, {label: ["x"] for label in LABELS if label != "rain"})
    (root / "README.txt").write_text("- [1-100-A.ogg]: something else\n")
    with pytest.raises(DataError, match=r"README\.txt:1: not an attribution line"):
        load(root, CAPTIONS)
    (root / "README.txt").unlink()
    with pytest.raises(DataError, match="should be the publisher's ESC-10 folder"):
        load(root, CAPTIONS)


@pytest.mark.skipif(not (SHARED / "data" / "esc10").is_dir(), reason="../shared is not here")
def test_the_publishers_own_folder():
    clips = load(SHARED / "data" / "esc10", CAPTIONS)
    assert len(clips) == 400 and sum("Sampling+" in clip.licence for clip in clips) == 2
    assert {label: sum(clip.labels == [label] for clip in clips) for label in LABELS} == dict.fromkeys(LABELS, 40)
