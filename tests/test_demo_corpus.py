"""The corpus that ships: counts, folds, captions, attribution, size."""

import json
from pathlib import Path

import yaml

from atr.config import demo_dir
from atr.shards.index import build_index, load_index
from atr.shards.read import ShardSet

FOLDS = [demo_dir() / "esc10" / f"fold{fold}" for fold in range(1, 6)]


def metadata(folder: Path) -> list[dict]:
    shards = ShardSet([folder])
    return [shards.metadata(number) for number in range(len(shards))]


def test_398_clips_in_five_folds_that_share_no_recording():
    folds = [metadata(folder) for folder in FOLDS]
    assert [len(fold) for fold in folds] == [79, 79, 80, 80, 80]
    sources = [{clip["source"] for clip in fold} for fold in folds]
    assert not any(a & b for i, a in enumerate(sources) for b in sources[:i])
    assert all(
        clip["title"]
        and clip["source"] == f"freesound:{clip['id'].split('-')[1]}"
        and clip["file"] == f"{clip['id']}.ogg"
        and clip["split"] == f.name
        for f, c in zip(FOLDS, folds, strict=True)
        for clip in c
    )


def test_captions_and_label_stand_in_each_json():
    captions = yaml.safe_load((demo_dir() / "captions.yaml").read_text())
    texts = [text for of_label in captions.values() for text in of_label]
    assert len(texts) == len(set(texts)) and all(len(set(of_label)) >= 6 for of_label in captions.values())
    for clip in (clip for folder in FOLDS for clip in metadata(folder)):
        (label,) = clip["tag"]
        assert clip["text"] == captions[label]


def test_every_clip_is_attributed_and_none_is_under_sampling_plus():
    rows = (demo_dir() / "esc10" / "ATTRIBUTION.md").read_text()
    for clip in (clip for folder in FOLDS for clip in metadata(folder)):
        assert f"| {clip['id']} | [" in rows
        assert "Sampling" not in clip["licence"]
    assert rows.count("freesound.org/people/") == 398


def test_at_most_16_mb_and_the_indexes_are_right():
    tars = [tar for folder in FOLDS for tar in folder.glob("*.tar")]
    assert sum(tar.stat().st_size for tar in tars) <= 16e6
    for tar in tars:
        assert load_index(tar) == build_index(tar)
        assert json.loads(tar.with_suffix(".index.json").read_text())["size"] == tar.stat().st_size
