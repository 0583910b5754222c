"""What all corpora offer."""

import re

import pytest

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Card, Download, MissingSplit, Raw, corpus_names, find_corpus, need_file
from atr.errors import DataError, UsageError


@pytest.mark.parametrize("name", corpus_names())
def test_cards_are_complete(name):
    card = find_corpus(name).CARD
    assert isinstance(card, Card)
    for field in ("name", "homepage", "licence", "captions", "citation"):
        assert getattr(card, field).strip(), field
    assert card.homepage.startswith("https://") or name == "own"  # one's own tables have none
    assert all(fault.strip() for fault in card.faults)
    assert len(set(card.splits)) == len(card.splits)
    assert card.splits or hasattr(find_corpus(name), "splits")
    assert all(re.fullmatch(r"[a-z0-9_]+", split) for split in card.splits)  # they become folders


@pytest.mark.parametrize("name", corpus_names())
def test_downloads_stay_below_the_root_and_are_checked_where_they_can_be(name):
    downloads = find_corpus(name).CARD.downloads
    assert len({one.path for one in downloads}) == len(downloads)
    for one in downloads:
        assert isinstance(one, Download)
        assert one.url.startswith("https://")
        assert not one.path.startswith("/")
        assert ".." not in one.path
        assert re.fullmatch(r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})?", one.checksum)
        assert one.size is None or one.size > 0


@pytest.mark.parametrize("name", corpus_names())
def test_an_empty_folder_is_a_missing_split(name, tmp_path):
    corpus = find_corpus(name)
    for split in corpus.CARD.splits:
        with pytest.raises(DataError, match=re.escape(str(tmp_path))):
            list(corpus.read(Raw(tmp_path, AudioFiles(None)), split))


def test_the_corpora_that_there_are():
    names = corpus_names()
    assert names == sorted(names)
    captioned = ["audioatlas", "audiocaps", "audiosetcaps", "auto_acd", "clotho", "laion_audio", "macs", "wavcaps"]
    assert set(captioned) <= set(names)
    assert not {"corpus", "tables", "manifest", "audio_files", "json_records", "exclusions"} & set(names)
    assert find_corpus("audiocaps").CARD.name == "AudioCaps"


def test_an_unknown_corpus_lists_those_that_there_are():
    with pytest.raises(UsageError) as caught:
        find_corpus("audio-caps")
    assert str(caught.value) == f"no corpus is called 'audio-caps'; there are: {', '.join(corpus_names())}"


def test_a_file_that_is_needed(tmp_path):
    path = tmp_path / "train.csv"
    with pytest.raises(MissingSplit, match=r"train\.csv is missing: the table$"):
        need_file(path, "the table")
    path.mkdir()
    with pytest.raises(MissingSplit):
        need_file(path, "the table")
    path.rmdir()
    path.touch()
    assert need_file(path, "the table") == path
