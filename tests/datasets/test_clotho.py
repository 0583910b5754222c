"""Clotho from a three-row fixture of the publisher's shape, and its real tables."""

from collections import Counter

import pytest

from atr.datasets import clotho
from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw
from atr.shards.write import KEY_LENGTH, shard_key
from atr.types import BadSample, Clip
from tests.conftest import SHARED

HEADER = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
TABLE = HEADER + (
    '"Rain, on: a roof.wav","Rain, hard.",b,c,d,e\n'
    "Cow_Bells.wav,f,g,h,i,j\n"
    "Cow Bells.wav,k,l,m,n,o\n"
)  # fmt: skip
ABOUT = "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license\n"
METADATA = ABOUT + (
    '"Rain, on_ a roof.wav",rain;roof;été,100,https://freesound.org/people/a/sounds/100,"[1, 2]",a,CC0\n'
    'Cow Bells.wav,cow,200,https://x,"[0, 9]",b,http://creativecommons.org/licenses/by/3.0/\n'
    'Cow_Bells.wav,cow,Not found,Not found,"[0, 9]",b,CC0\n'
)
REAL = SHARED / "data" / "captions" / "clotho"


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "clotho_captions_development.csv").write_text(TABLE)
    (tmp_path / "clotho_metadata_development.csv").write_text(METADATA, encoding="latin-1")
    for name in ("Rain, on: a roof.wav", "Cow Bells.wav", "Cow_Bells.wav"):
        touch(tmp_path / "development" / name)
    return Raw(tmp_path, AudioFiles(tmp_path))


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def read(raw, split):
    found = list(clotho.read(raw, split))
    return [one for one in found if isinstance(one, Clip)], [one for one in found if isinstance(one, BadSample)]


def test_counts_and_the_first_clip(raw):
    clips, bad = read(raw, "train")
    assert len(clips) == 3
    assert clips[0] == Clip(
        id="Rain, on: a roof", audio=str(raw.root / "development" / "Rain, on: a roof.wav"), split="train",
        captions=["Rain, hard.", "b", "c", "d", "e"], labels=["rain", "roof", "été"], title="Rain, on: a roof",
        source="freesound:100", dataset="Clotho", licence="CC0",
    )  # fmt: skip
    assert (clips[2].source, clips[2].licence) == ("freesound:200", "http://creativecommons.org/licenses/by/3.0/")
    where = f"{raw.root / 'clotho_metadata_development.csv'}:4"
    assert bad == [BadSample(where, "'Not found' is no Freesound id; the clip's source stays empty", clips=0)]


def test_ids_stay_apart_in_a_shard(raw):
    clips, _ = read(raw, "train")
    assert [clip.id for clip in clips] == ["Rain, on: a roof", "Cow_Bells_ad1f56f8", "Cow Bells_4295f7a5"]
    assert [clip.title for clip in clips] == ["Rain, on: a roof", "Cow_Bells", "Cow Bells"]
    (raw.root / "clotho_captions_validation.csv").write_text(HEADER + f"{'long ' * 30}.wav,a,b,c,d,e\n")
    (clip,), _ = read(Raw(raw.root, AudioFiles(None)), "validation")
    assert len(shard_key(clip.id)) <= KEY_LENGTH


def test_without_metadata_there_is_no_source(raw):
    (raw.root / "clotho_metadata_development.csv").unlink()
    clips, bad = read(raw, "train")
    assert ([clip.source for clip in clips], bad) == (["", "", ""], [])
    assert clips[0].labels == []
    assert clips[0].licence == clotho.CARD.licence


def test_rows_without_a_partner_are_named_and_cost_no_clip(raw):
    captions, metadata = (raw.root / f"clotho_{one}_development.csv" for one in ("captions", "metadata"))
    metadata.write_text(ABOUT + "Other.wav,a,1,l,s,m,CC0\nCowBells.wav,a,2,l,s,m,CC0\nshort\n", encoding="latin-1")
    clips, bad = read(raw, "train")
    assert [clip.source for clip in clips] == ["", "", ""]
    nothing = f"has no row in {metadata.name}; its source stays empty"
    assert bad == [
        BadSample(f"{metadata}:4", "has 1 cells instead of 7", clips=0),
        BadSample(f"{metadata}:2", "'Other.wav' is no name of the caption table", clips=0),
        BadSample(f"{metadata}:3", "'CowBells.wav' is no name of the caption table", clips=0),  # which of the two?
        BadSample(f"{captions}:2", f"'Rain, on: a roof.wav' {nothing}", clips=0),
        BadSample(f"{captions}:3", f"'Cow_Bells.wav' {nothing}", clips=0),
        BadSample(f"{captions}:4", f"'Cow Bells.wav' {nothing}", clips=0),
    ]


def test_a_name_of_two_splits_is_taken_from_its_own_folder(raw):
    for part in ("validation", "evaluation"):
        (raw.root / f"clotho_captions_{part}.csv").write_text(HEADER + "Cow Bells.wav,a,b,c,d,e\n")
    evaluation = raw.root / "clotho_audio_evaluation" / "Cow Bells.wav"
    touch(evaluation)
    assert read(raw, "test")[0][0].audio == str(evaluation)
    assert read(raw, "train")[0][2].audio == str(raw.root / "development" / "Cow Bells.wav")
    clips, bad = read(raw, "validation")  # its folder is not there, and the other two hold another recording
    assert clips == []
    assert bad == [BadSample("Cow Bells", f"no file 'Cow Bells.wav' below {raw.root}")]


def test_a_folder_of_one_split_may_be_given(raw):
    audio = AudioFiles(raw.root / "development")
    assert len(read(Raw(raw.root, audio), "train")[0]) == 3


def test_a_name_that_begins_with_a_blank(raw):
    path = raw.root / "validation" / " Birds.wav"
    touch(path)
    (raw.root / "clotho_captions_validation.csv").write_text(HEADER + " Birds.wav,a,b,c,d,e\n")
    assert read(raw, "validation")[0][0].audio == str(path)


def test_rows_that_give_no_clip_are_named(raw):
    path = raw.root / "clotho_captions_evaluation.csv"
    touch(raw.root / "evaluation" / "a.wav")
    path.write_text(HEADER + "a.wav,b,,,,\na.wav,c,d,e,f,g\nb.wav,,,,,\n,c,d,e,f,g\nc.wav,a,b,c,d,e\n")
    clips, bad = read(raw, "test")
    assert [clip.captions for clip in clips] == [["b"]]
    assert bad == [
        BadSample(f"{path}:3", f"'a.wav' stands in {path}:2, too"),
        BadSample(f"{path}:4", "'b.wav' has no caption"),
        BadSample(f"{path}:5", "'' has no name"),
        BadSample("c", f"no file 'c.wav' below {raw.root}"),
    ]


def test_a_split_that_is_not_there(raw):
    with pytest.raises(MissingSplit, match=r"clotho_captions_evaluation\.csv is missing: Clotho's captions"):
        read(raw, "test")


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared tables")
def test_the_real_tables(tmp_path):
    names = {}
    for here, there, split in (
        ("train", "development", "train"), ("val", "validation", "validation"), ("test", "evaluation", "test"),
    ):  # fmt: skip
        (tmp_path / f"clotho_captions_{there}.csv").symlink_to(REAL / f"{here}.csv")
        clips, bad = read(Raw(tmp_path, AudioFiles(None)), split)
        assert bad == []
        assert {len(clip.captions) for clip in clips} == {5}
        assert len({shard_key(clip.id) for clip in clips}) == len(clips)
        assert max(len(shard_key(clip.id).encode()) for clip in clips) <= KEY_LENGTH
        names[split] = [clip.audio for clip in clips]
    assert {split: len(them) for split, them in names.items()} == {"train": 3839, "validation": 1045, "test": 1045}
    counts = Counter(name for them in names.values() for name in them)
    assert sum(count == 2 for count in counts.values()) == 4  # the names that stand in two splits
