"""Which captions are nearest to a clip, and its sound as browsers play it."""

import base64
import dataclasses
import io
import shutil

import numpy as np
import pytest
import soundfile

from atr.collection import Item
from atr.errors import DataError
from atr.evaluation.listen import SECONDS, near, play, sounds, spread
from atr.evaluation.sets import read_set
from tests.conftest import tone
from tests.evaluation.made import saved


def heard(uri):
    kind, _, content = uri.partition(";base64,")
    assert kind == "data:audio/mpeg"
    return soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="float32")


def item(path):
    return Item("x", lambda: str(path), 0)


def test_the_nearest_captions_are_the_nearest():
    one = saved()
    cosine = {caption: float(one.text[column] @ one.audio[3]) for column, caption in enumerate(one.captions)}
    order = sorted(cosine, key=lambda caption: -cosine[caption])
    found = near(one, 3)
    assert [caption for _, caption, _ in found.nearest] == order[:4]
    assert found.nearest[0][0] == pytest.approx(max(cosine.values()), abs=1e-6)
    assert found.own_place == order.index("caption 3") + 1
    assert [own for _, caption, own in found.nearest] == [caption == "caption 3" for caption in order[:4]]


def test_a_clip_without_a_caption_has_no_place():
    one = saved()
    kept = one.clip_of_text != 3
    captions = [caption for caption, keep in zip(one.captions, kept, strict=True) if keep]
    less = dataclasses.replace(one, text=one.text[kept], clip_of_text=one.clip_of_text[kept], captions=captions)
    assert near(less, 3).own_place is None and len(near(less, 3).nearest) == 4


def test_clips_are_spread_over_the_set():
    ids = [str(number) for number in range(20_000)]
    assert spread(ids, 3) == ["0", "10000", "19999"] and len(spread(ids, 12)) == 12
    assert spread(ids[:2], 12) == ["0", "1"] and spread([], 12) == []


@pytest.mark.parametrize("rate", [4_000, 16_000, 22_050, 44_100, 96_000])
def test_the_sound_is_that_of_the_clip(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(440, 1.0, rate, channels=2), rate)
    samples, played_at = heard(play(item(tmp_path / "a.wav")))
    assert (
        samples.ndim == 1
        and played_at == max(8000, min(32_000, rate))
        and len(samples) / played_at == pytest.approx(1.0, abs=0.06)
    )
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * played_at / len(samples) == pytest.approx(440, abs=4)


def test_no_more_than_the_first_seconds_are_taken(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.tile(tone(300, 1.0), 40), 16_000)
    uri = play(item(tmp_path / "a.flac"))
    samples, rate = heard(uri)
    assert len(samples) / rate == pytest.approx(SECONDS, abs=0.1) and len(uri) < 130_000


def test_samples_that_are_no_numbers_do_not_reach_the_page(tmp_path):
    broken = tone(300, 1.0)
    broken[100:200], broken[300] = np.nan, np.inf
    soundfile.write(tmp_path / "a.wav", broken, 16_000, subtype="FLOAT")
    assert np.isfinite(heard(play(item(tmp_path / "a.wav")))[0]).all()
    samples, _ = heard(play(Item("x", lambda: (tone(300, 1.0), 16_000), 0)))
    assert np.abs(samples).max() > 0.1


def test_an_empty_sound_is_none(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 16_000)
    with pytest.raises(DataError, match="holds no samples"):
        play(item(tmp_path / "a.wav"))
    with pytest.raises(DataError, match="has no sound file beside its json"):
        play(Item("x", lambda: None, 0))


def test_clips_are_found_by_their_id_where_they_were(shards):
    ids = read_set([shards]).ids
    calls = []
    found = sounds([saved(places=(str(shards),))], [ids[5], "another"], lambda: calls.append(1))
    samples, rate = heard(found[ids[5]])
    assert np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples) == pytest.approx(200 * 1.18**5, abs=4)
    assert str(found["another"]) == f"the sound is no longer in {shards}" and len(calls) == 2


def test_sound_that_is_gone_is_said_and_another_run_may_have_it(shards, tmp_path):
    ids = read_set([shards]).ids
    gone = saved(places=(str(tmp_path / "gone"),))
    found = sounds([gone], ids[:1], lambda: None)
    assert "gone: no such folder or table" in str(found[ids[0]])
    shutil.copytree(shards, tmp_path / "copy")
    both = sounds([gone, saved(places=(str(tmp_path / "copy"),))], ids[:1], lambda: None)
    assert heard(both[ids[0]])[1] == 16_000
    assert "kept no embeddings" in str(sounds([], ids[:1], lambda: None)[ids[0]])


@pytest.mark.parametrize("place", ["pipe:touch {}", "https://example.org/0.tar", "file://{}"])
def test_a_file_of_embeddings_starts_no_command_and_no_download(tmp_path, place):
    ran = tmp_path / "ran"
    found = sounds([saved(places=(place.format(ran),))], ["x"], lambda: None)
    assert "is remote; copy its shards or its manifest to this machine first" in str(found["x"]) and not ran.exists()


def test_a_sound_that_cannot_be_decoded_is_named(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.wav").write_bytes(b"no sound")
    (tmp_path / "set" / "a.txt").write_text("a caption")
    (name,) = read_set([tmp_path / "set"]).ids
    found = sounds([saved(places=(str(tmp_path / "set"),))], [name], lambda: None)
    assert f"{name}: " in str(found[name]) and "convert it to wav" in str(found[name])
