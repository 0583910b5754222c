"""BinauralMusic's lists: instruments, damaged and repeated ids."""

import json

import pytest
import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import MissingSplit, Raw, find_corpus
from atr.errors import DataError
from atr.types import BadSample, Clip
from tests.conftest import SHARED, tone

corpus = find_corpus("binauralmusic")
LISTS = SHARED / "data" / "meta" / "binauralmusic"


def test_a_list(tmp_path):
    videos = {
        "Chinese zither": [" -EwLzg9NIaE", "short"],
        "cello": ["aaaaaaaaaaa", 5, "-EwLzg9NIaE"],
        "Trio": ["b" * 11],
    }
    path = tmp_path / "BinauralMusic_solo.json"
    path.write_text(json.dumps({"version": 1.0, "videos": videos}))
    soundfile.write(tmp_path / "-EwLzg9NIaE.wav", tone(300, channels=2), 16_000)
    raw = Raw(tmp_path, AudioFiles(tmp_path))
    assert list(corpus.read(raw, "solo")) == [
        BadSample(
            f"{path}: videos['Chinese zither'][0]",
            "' -EwLzg9NIaE' has blanks around the id -EwLzg9NIaE, which is taken", clips=0,
        ),
        Clip(
            id="-EwLzg9NIaE", audio=str(tmp_path / "-EwLzg9NIaE.wav"), labels=["Chinese zither"], split="solo",
            source="youtube:-EwLzg9NIaE", dataset="BinauralMusic", licence=corpus.CARD.licence,
        ),
        BadSample(f"{path}: videos['Chinese zither'][1]", "'short' is no YouTube id of 11 characters"),
        BadSample("aaaaaaaaaaa", f"no file for video 'aaaaaaaaaaa' below {tmp_path}"),
        BadSample(f"{path}: videos['cello'][1]", "5 is no YouTube id of 11 characters"),
        BadSample(f"{path}: videos['cello'][2]", "-EwLzg9NIaE stands in videos['Chinese zither'][0] already"),
        BadSample("bbbbbbbbbbb", f"no file for video 'bbbbbbbbbbb' below {tmp_path}"),
    ]  # fmt: skip
    with pytest.raises(MissingSplit, match=r"BinauralMusic_duet_trio\.json is missing"):
        list(corpus.read(raw, "duet_trio"))
    for content, message in [("[", "is no JSON"), ('{"videos": []}', "has no `videos` with lists")]:
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            list(corpus.read(raw, "solo"))


@pytest.mark.skipif(not LISTS.is_dir(), reason="../shared is not here")
def test_the_publishers_own_lists():
    raw = Raw(LISTS, AudioFiles(None))
    solo, duets = list(corpus.read(raw, "solo")), list(corpus.read(raw, "duet_trio"))
    bad = [one for one in solo + duets if isinstance(one, BadSample) and one.clips]
    (remark,) = [one for one in solo + duets if isinstance(one, BadSample) and not one.clips]
    assert (len(solo) - 1, len(duets)) == (83, 65) and "' ZEwLzg9NIaE' has blanks" in remark.reason
    assert [(one.key.rpartition("/")[2], one.reason) for one in bad] == [
        ("BinauralMusic_solo.json: videos['erhu'][13]", "BPXGYYQRA1w stands in videos['erhu'][7] already"),
        ("BinauralMusic_solo.json: videos['flute'][3]", "XR81mJgDkfk stands in videos['flute'][1] already"),
        ("BinauralMusic_duet_trio.json: videos['piano erhu'][6]", "'wJVRW8UM' is no YouTube id of 11 characters"),
        ("BinauralMusic_duet_trio.json: videos['piano violin'][1]", "'PLLnCCWYC' is no YouTube id of 11 characters"),
        ("BinauralMusic_duet_trio.json: videos['piano violin'][9]", "'bOYpwFkn7o' is no YouTube id of 11 characters"),
        ("BinauralMusic_duet_trio.json: videos['Trio'][12]", "trIYz35DZjI stands in videos['Trio'][0] already"),
    ]
    assert {label for one in solo if isinstance(one, Clip) for label in one.labels} == set(corpus.INSTRUMENTS)
    assert next(one for one in duets if isinstance(one, Clip)).labels == ["guitar", "piano"]
    assert any(one.id == "ZEwLzg9NIaE" for one in solo if isinstance(one, Clip))  # the one with a blank before it
