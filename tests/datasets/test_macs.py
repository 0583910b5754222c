"""MACS from a three-entry fixture of the publisher's shape."""

import pytest

from atr.datasets import macs
from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw
from atr.errors import DataError
from atr.types import BadSample, Clip

YAML = """files:
- filename: park-london-5-200-a.wav
  annotations:
  - annotator_id: 7
    sentence: "birds sing: children play"
    tags: [birds_singing, children_voices]
  - annotator_id: 9
    sentence: birds in a park
    tags: [birds_singing, footsteps]
- filename: airport-lisbon-1000-40000-a.wav
  annotations:
  - {annotator_id: 7, sentence: people talk, tags: []}
- filename: public_square-paris-1-0-a.wav
  annotations:
  - {annotator_id: 7, sentence: a siren}
"""


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "MACS.yaml").write_text(YAML)
    for name in ("park-london-5-200-a", "airport-lisbon-1000-40000-a", "public_square-paris-1-0-a"):
        path = tmp_path / "TAU-urban-acoustic-scenes-2019-development" / "audio" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Raw(tmp_path, AudioFiles(tmp_path))


def test_counts_and_the_first_clip(raw):
    clips = list(macs.read(raw, "train"))
    sounds = raw.root / "TAU-urban-acoustic-scenes-2019-development" / "audio"
    assert clips[0] == Clip(
        id="park-london-5-200-a", audio=str(sounds / "park-london-5-200-a.wav"), split="train",
        captions=["birds sing: children play", "birds in a park"],
        labels=["birds_singing", "children_voices", "footsteps"], source="tau2019:park-london-5-200",
        dataset="MACS",
        licence="Tampere University, non-commercial: captions and sound (TAU Urban Acoustic Scenes 2019)",
    )  # fmt: skip
    assert [(clip.source, clip.labels) for clip in clips[1:]] == [
        ("tau2019:airport-lisbon-1000-40000", []), ("tau2019:public_square-paris-1-0", []),
    ]  # fmt: skip


def test_a_list_without_the_key_is_read_too(raw):
    content = YAML.removeprefix("files:\n")
    (raw.root / "MACS.yaml").write_text(content)
    assert len(list(macs.read(raw, "train"))) == 3


def test_entries_that_give_no_clip_are_named(raw):
    path = raw.root / "MACS.yaml"
    path.write_text(
        "files:\n- filename: park-london-5-200-a.wav\n"
        "- {filename: dog.wav, annotations: [{sentence: a}]}\n"
        "- {filename: park-london-5-200-a.wav, annotations: [{sentence: ' '}]}\n"
        "- {filename: park-london-5-200-a.wav, annotations: [{sentence: a}]}\n"
        "- {filename: park-london-5-200-a.wav, annotations: [{sentence: b}]}\n"
        "- {filename: park-london-5-201-a.wav, annotations: [{sentence: c}]}\n"
        "- 7\n"
    )
    found = list(macs.read(raw, "train"))
    form = "has not the form {filename, annotations: [{annotator_id, sentence, tags: [...]}]}"
    assert [one for one in found if isinstance(one, BadSample)] == [
        BadSample(f"{path}: entry 0", form),
        BadSample(f"{path}: entry 1", "'dog.wav' is no name of TAU 2019, such as park-london-5-200-a.wav"),
        BadSample(f"{path}: entry 2", "'park-london-5-200-a.wav' has no caption"),
        BadSample(f"{path}: entry 4", "'park-london-5-200-a.wav' came before"),
        BadSample("park-london-5-201-a", f"no file 'park-london-5-201-a.wav' below {raw.root}"),
        BadSample(f"{path}: entry 6", form),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("files: [", r"MACS\.yaml: is no YAML .*line"),
        ("!!python/object/apply:os.system ['true']", r"MACS\.yaml: is no YAML .*constructor"),
        ("other: 1", r"MACS\.yaml: has no list `files`"),
    ],
)
def test_another_file_is_refused(raw, content, message):
    (raw.root / "MACS.yaml").write_text(content)
    with pytest.raises(DataError, match=message):
        list(macs.read(raw, "train"))
