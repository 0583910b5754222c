"""How a clip's sound is stored: blocks equal the whole, nothing is changed unsaid, chance is taken out of Ogg."""

import io
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr

from atr.errors import DataError
from atr.shards import encode
from atr.shards.encode import FORMATS, encode_clip, number_ogg_stream
from atr.types import Clip
from tests.conftest import tone


def stored(clip, codec, sample_rate=None, dtype="int16"):
    return soundfile.read(io.BytesIO(encode_clip(clip, codec, sample_rate).content), dtype=dtype)


@pytest.fixture
def noise(tmp_path):
    """3 s of 16-bit stereo at 44.1 kHz, full scale: int16 `(frames, 2)`, and its clip."""
    samples = np.random.default_rng(0).integers(-32768, 32768, (132_301, 2), dtype=np.int16)
    soundfile.write(tmp_path / "noise.wav", samples, 44_100)
    return samples, Clip(id="noise", audio=str(tmp_path / "noise.wav"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(encode, "BLOCK", 10_000)


@pytest.mark.parametrize("codec", ["flac", "wav"])
def test_sixteen_bits_stay_as_they_are(noise, codec):
    samples, clip = noise
    assert np.array_equal(stored(clip, codec)[0], samples)
    assert encode_clip(clip, codec, None).clipped == 0


@pytest.mark.parametrize("rate", [8000, 16_000, 48_000])
def test_resampling_in_blocks_gives_the_samples_of_the_whole(tmp_path, noise, rate):
    whole = soxr.resample(soundfile.read(noise[1].audio, dtype="float32")[0], 44_100, rate)
    soundfile.write(tmp_path / "whole.flac", whole, rate)
    assert np.array_equal(stored(noise[1], "flac", rate)[0], soundfile.read(tmp_path / "whole.flac", dtype="int16")[0])
    clipped = np.count_nonzero(np.abs(whole) > 1)  # resampling makes new peaks
    assert encode_clip(noise[1], "flac", rate).clipped == clipped and (clipped > 0 or rate == 8000)


def test_mono_is_resampled_too(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(300, 2.0), 16_000)
    samples, rate = stored(Clip(id="a", audio=str(tmp_path / "a.wav")), "flac", 8000, "float32")
    assert (samples.shape, rate) == ((16_000,), 8000)
    np.testing.assert_allclose(samples[100:-100], tone(300, 2.0, 8000)[100:-100], atol=1e-3)


def test_clipped_samples_are_counted_where_bits_are_lost(tmp_path):
    soundfile.write(tmp_path / "loud.wav", np.array([0.5, 1.0, -1.0, 1.25, -7.0] * 50), 16_000, subtype="FLOAT")
    clip = Clip(id="loud", audio=str(tmp_path / "loud.wav"))
    assert [encode_clip(clip, codec, None).clipped for codec in ("flac", "wav", "ogg", "opus")] == [100, 100, 0, 0]
    assert stored(clip, "flac")[0][:5].tolist() == [16384, 32767, -32768, 32767, -32768]


@pytest.mark.parametrize("codec", FORMATS)
def test_a_stretch_over_several_blocks_is_cut_out(noise, codec):
    samples, clip = noise
    cut = Clip(id="cut", audio=clip.audio, start=0.5, end=1.25)
    whole = Clip(id="rest", audio=clip.audio, start=2.0, end=99.0)
    rate = 48_000 if codec == "opus" else None
    assert len(stored(cut, codec, rate)[0]) == round(0.75 * (rate or 44_100))
    assert len(stored(whole, codec, rate)[0]) == round(44_101 * (rate or 44_100) / 44_100)
    if codec in ("flac", "wav"):
        assert np.array_equal(stored(cut, codec)[0], samples[22_050:55_125])


@pytest.mark.parametrize("codec", ["ogg", "opus"])
def test_ogg_files_are_the_same_every_time(tmp_path, codec):
    soundfile.write(tmp_path / "a.wav", tone(300, 5.0), 16_000)
    clip = Clip(id="a", audio=str(tmp_path / "a.wav"))
    assert encode_clip(clip, codec, None) == encode_clip(clip, codec, None)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_another_stream_number_changes_no_sample_and_the_checksum_is_oggs(subtype):
    stream = io.BytesIO()
    soundfile.write(stream, tone(300, 20.0), 16_000, format="OGG", subtype=subtype)
    before = stream.getvalue()
    after = number_ogg_stream(before)
    assert before != after and number_ogg_stream(after) == after
    samples = soundfile.read(io.BytesIO(after))[0]
    assert len(samples) == 320_000 and np.array_equal(samples, soundfile.read(io.BytesIO(before))[0])
    number = bytearray(after)  # libogg drops a page whose checksum is wrong: sound that is there was checked
    number[number.index(b"OggS", 8000) + 14] ^= 1
    try:
        damaged = len(soundfile.read(io.BytesIO(bytes(number)))[0])
    except soundfile.LibsndfileError:
        damaged = 0
    assert damaged < 320_000


def test_memory_is_that_of_a_block_and_the_encoded_clip(tmp_path):
    soundfile.write(tmp_path / "long.flac", np.zeros(4_000_000, np.int16), 48_000)
    clip = Clip(id="long", audio=str(tmp_path / "long.flac"))
    tracemalloc.start()
    sound = encode_clip(clip, "flac", 16_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000 + 2 * len(sound.content)  # bytes; the whole as float32 has 16 000 000


@pytest.mark.parametrize(
    ("codec", "rate", "message"),
    [
        ("opus", None, "opus cannot store 44100 Hz; choose a sample_rate of 8000, 12000, 16000, 24000, 48000 Hz"),
        ("ogg", 300_000, "ogg cannot store 300000 Hz; choose a sample_rate of 1 to 200000 Hz"),
        ("flac", 700_000, "flac cannot store 700000 Hz; choose a sample_rate of 1 to 655350 Hz"),
    ],
)
def test_rates_a_codec_cannot_store(noise, codec, rate, message):
    with pytest.raises(DataError, match=message):
        encode_clip(noise[1], codec, rate)


def test_what_is_no_usable_sound_is_said(tmp_path):
    soundfile.write(tmp_path / "many.wav", np.zeros((10, 9)), 16_000)
    soundfile.write(tmp_path / "one.wav", np.zeros(16_000), 16_000)
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "a.txt").write_text("no sound")
    (tmp_path / "folder.wav").mkdir()

    def reason(name, codec="flac", **fields):
        with pytest.raises(DataError) as error:
            encode_clip(Clip(id="a", audio=str(tmp_path / name), **fields), codec, None)
        return str(error.value).replace(str(tmp_path), "")

    assert reason("many.wav") == "/many.wav: 9 channels; at most 8 can be stored; mix it down"
    assert reason("one.wav", start=1.0) == "/one.wav: no samples in it between 1.0 s and its end"
    assert reason("one.wav", start=0.5, end=0.5) == "/one.wav: no samples in it between 0.5 s and 0.5 s"
    assert reason("one.wav", start=-0.5) == "/one.wav: starts at -0.5 s, before the file does; give 0 or more"
    for codec in ("flac", "keep"):
        assert reason("gone.wav", codec) == "/gone.wav: cannot be read (No such file or directory)"
        assert reason("folder.wav", codec) == "/folder.wav: cannot be read (Is a directory)"
    assert reason("text.wav").startswith("/text.wav: cannot be decoded (Format not recognised.); convert it to wav, ")
    assert reason("text.wav", "keep") == "/text.wav: cannot be read or encoded (Format not recognised.)"
    assert "suffix .txt cannot be kept; allowed are flac, wav" in reason("a.txt", "keep")
    assert "cannot cut out 0.5 to None s" in reason("one.wav", "keep", start=0.5)


def test_keep_looks_into_those_files_only_that_libsndfile_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "AUDIO_SUFFIXES", ("wav", "m4a"))
    (tmp_path / "a.m4a").write_bytes(b"left to another decoder")
    assert encode_clip(Clip(id="a", audio=str(tmp_path / "a.m4a")), "keep", None).content == b"left to another decoder"
    for name in ("b.m4a", "b.wav"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match="no samples in it"):
            encode_clip(Clip(id="b", audio=str(tmp_path / name)), "keep", None)


@pytest.mark.parametrize("suffix", ["mp3", "opus", "ogg", "flac"])
@pytest.mark.parametrize("start", [None, 7.3])
def test_blocks_of_any_codec_join_without_a_glitch(tmp_path, suffix, start, monkeypatch):
    monkeypatch.setattr(encode, "BLOCK", 100_000)
    path = tmp_path / f"long.{suffix}"
    kinds = {
        "mp3": ("MP3", "MPEG_LAYER_III"),
        "opus": ("OGG", "OPUS"),
        "ogg": ("OGG", "VORBIS"),
        "flac": ("FLAC", None),
    }
    kind, subtype = kinds[suffix]
    time = np.arange(16_000 * 12) / 16_000  # bursts, whose bits an mp3 of variable rate saves up before them
    wave = 0.2 * np.random.default_rng(0).standard_normal(len(time)) * (time % 0.5 < 0.05)
    more = {"compression_level": 0.5, "bitrate_mode": "VARIABLE"} if suffix == "mp3" else {}
    soundfile.write(path, wave, 16_000, subtype, format=kind, **more)
    whole = soundfile.read(path, dtype="float32")[0][round((start or 0) * 16_000) :]
    stored = soundfile.read(io.BytesIO(encode_clip(Clip(id="a", audio=str(path), start=start), "flac", None).content))[
        0
    ]
    assert len(stored) == len(whole)
    assert np.abs(stored - np.clip(whole, -1, 1)).max() < (1e-2 if suffix == "opus" else 1e-4)  # measured: 4e-3, 2e-5
