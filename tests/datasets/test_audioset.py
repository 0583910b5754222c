"""AudioSet from a three-row fixture of the publisher's shape, and from its real tables."""

import json
import tracemalloc

import pytest
import soundfile

from atr.datasets import audioset
from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw
from atr.errors import DataError
from atr.types import Clip
from tests.conftest import SHARED, tone
from tests.datasets.reading import put, read_split

META = SHARED / "data" / "meta"
NODES = [
    {"id": "/m/env", "name": "Acoustic environment", "child_ids": ["/t/in", "/m/echo"]},
    {"id": "/t/in", "name": "Inside, small room", "child_ids": ["/m/echo"]},
    {"id": "/m/echo", "name": "Echo", "child_ids": []},
    {"id": "/m/dog", "name": "Dog", "child_ids": []},
]
SEGMENTS = """# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4
# YTID, start_seconds, end_seconds, positive_labels
--abcdefgh1, 30.000, 40.000, "/m/dog,/t/in"
-2bcdefgh12, 0.000, 10.000, "/m/dog"
3bcdefgh123, 5.000, 12.500, /m/echo
"""


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "eval_segments.csv", SEGMENTS)
    put(tmp_path / "ontology.json", json.dumps(NODES))
    return tmp_path


def test_counts_and_the_first_clip(root):
    clips, bad = read_split(audioset, root, "evaluation")
    assert not bad and [clip.id for clip in clips] == ["--abcdefgh1_30", "-2bcdefgh12_0", "3bcdefgh123_5"]
    assert clips[0] == Clip(
        id="--abcdefgh1_30", audio="--abcdefgh1", labels=["Dog", "Inside, small room"], split="evaluation", start=30.0,
        end=40.0, source="youtube:--abcdefgh1", dataset="AudioSet", licence=audioset.CARD.licence,
    )  # fmt: skip
    assert (clips[2].end, clips[2].labels) == (12.5, ["Echo"])


def test_environment_is_the_evaluation_clips_below_that_node(root):
    clips, bad = read_split(audioset, root, "environment")
    assert not bad and [(clip.id, clip.labels, clip.split) for clip in clips] == [
        ("--abcdefgh1_30", ["Inside, small room"], "environment"), ("3bcdefgh123_5", ["Echo"], "environment"),
    ]  # fmt: skip


def test_descendants_come_from_top_to_bottom_each_once_and_a_circle_ends():
    assert audioset.descendants(NODES, "Acoustic environment") == ["Inside, small room", "Echo"]
    assert audioset.descendants(NODES, "Dog") == []
    circle = [{"id": "1", "name": "a", "child_ids": ["2"]}, {"id": "2", "name": "b", "child_ids": ["1", "2"]}]
    assert audioset.descendants(circle, "a") == ["b", "a"]
    with pytest.raises(DataError, match="the ontology has no node 'Cat'"):
        audioset.descendants(NODES, "Cat")


def test_names_may_come_from_the_list_of_classes_and_sounds_are_found(root):
    (root / "ontology.json").unlink()
    put(root / "class_labels_indices.csv", 'index,mid,display_name\n0,/m/dog,"Dog"\n1,/t/in,"Inside, small room"\n')
    soundfile.write(root / "Y--abcdefgh1.wav", tone(300, seconds=10), 16_000)
    clips, bad = read_split(audioset, root, "evaluation", root)
    assert [(clip.audio, clip.labels, clip.start) for clip in clips] == [
        (str(root / "Y--abcdefgh1.wav"), ["Dog", "Inside, small room"], None)
    ]
    assert bad[0].reason == f"no file for video '-2bcdefgh12' below {root}"
    assert "label '/m/echo' stands neither in ontology.json nor in class_labels_indices.csv" in bad[1].reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('short, 0.0, 10.0, "/m/dog"', "'short' is no YouTube id"),
        ('-2bcdefgh12, zero, 10.0, "/m/dog"', "'zero' is no number of seconds"),
        ('-2bcdefgh12, 0.0, -1, "/m/dog"', "-1 s is no time in a recording"),
        ('-2bcdefgh12, 10.0, 10.0, "/m/dog"', "ends at 10 s, before it starts at 10 s"),
        ('-2bcdefgh12, 0.0, 10.0, ""', "has no label"),
        ("-2bcdefgh12, 0.0", "has 2 cells instead of 4"),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_read(root, row, reason):
    put(root / "eval_segments.csv", SEGMENTS + row + "\n")
    clips, bad = read_split(audioset, root, "evaluation")
    assert len(clips) == 3 and [(one.key, one.reason) for one in bad] == [(f"{root / 'eval_segments.csv'}:7", reason)]


def test_what_is_missing_or_damaged_is_named(root):
    with pytest.raises(MissingSplit, match=r"balanced_train_segments\.csv is missing: AudioSet's table of this split"):
        read_split(audioset, root, "balanced_train")
    put(root / "ontology.json", '[{"id": "1"}]')
    with pytest.raises(DataError, match=r"is no AudioSet ontology, a list of objects .* \(KeyError\('name'\)\)"):
        read_split(audioset, root, "evaluation")
    (root / "ontology.json").unlink()
    with pytest.raises(MissingSplit, match=r"neither ontology\.json nor class_labels_indices\.csv"):
        read_split(audioset, root, "evaluation")
    put(root / "class_labels_indices.csv", "index,mid,display_name\n")
    with pytest.raises(MissingSplit, match=r"ontology\.json is missing: .* which tells the environments"):
        read_split(audioset, root, "environment")


def test_rows_are_not_held(root):
    rows = (f'{number:011d}, 0.000, 10.000, "/m/dog"\n' for number in range(10_000))
    (root / "unbalanced_train_segments.csv").write_text("".join(rows))
    tracemalloc.start()
    assert sum(1 for _ in audioset.read(Raw(root, AudioFiles(None)), "unbalanced_train")) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6  # bytes; ten thousand clips have some 1e7


@pytest.mark.skipif(not META.is_dir(), reason="../shared is not here")
def test_the_publishers_own_tables(tmp_path):
    for name in ("eval_segments.csv", "balanced_train_segments.csv", "class_labels_indices.csv"):
        (tmp_path / name).symlink_to(META / name)
    evaluation, bad = read_split(audioset, tmp_path, "evaluation")
    assert (len(evaluation), bad) == (20_371, [])
    assert evaluation[0].id == "--4gqARaEJE_0"
    assert evaluation[0].labels == ["Domestic animals, pets", "Squeak", "Dog", "Animal"]
    (tmp_path / "ontology.json").symlink_to(META / "audioset_ontology.json")
    assert len(audioset.read_ontology(tmp_path / "ontology.json")) == 632
    balanced, bad = read_split(audioset, tmp_path, "balanced_train")
    assert (len(balanced), bad) == (22_160, []) and len({label for clip in balanced for label in clip.labels}) == 527
    environment, bad = read_split(audioset, tmp_path, "environment")
    assert (len(environment), bad) == (1_302, []) and sum(len(clip.labels) > 1 for clip in environment) == 40
    assert sum(clip.labels == ["Inside, small room"] for clip in environment) == 576
