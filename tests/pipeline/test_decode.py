"""Opening files: seeks, lossy formats, files cut off or without a length, and what only FFmpeg reads."""

import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr

from atr.errors import DataError
from atr.pipeline import decode
from atr.pipeline.audio import decode_clip
from tests.conftest import tone
from tests.pipeline.test_audio import At, encoded, noise

try:
    from torchcodec.decoders import AudioDecoder  # noqa: F401

    FFMPEG = shutil.which("ffmpeg")
except (ImportError, RuntimeError):
    FFMPEG = None
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="torchcodec or FFmpeg is not installed")


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data

    def readinto(self, buffer):
        size = super().readinto(buffer)
        self.count += size
        return size


def chirp(seconds, rate):
    """Noise and a rising tone: no two places sound the same."""
    time = np.arange(round(seconds * rate)) / rate
    hiss = np.random.default_rng(0).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * (100 + 20 * time) * time) + 0.05 * hiss).astype(np.float32)


def offset(crop, whole, expected, reach=3_000):
    """Samples by which `crop` lies after `expected` in `whole`."""
    piece = crop[10_000:18_000]
    start = expected + 10_000 - reach
    return int(np.correlate(whole[start : start + len(piece) + 2 * reach], piece, "valid").argmax()) - reach


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_only_the_crop_is_read(kind):
    file = Counting(encoded(noise(300, 16_000), 16_000, kind))
    for rng in (None, At(0.5), At(1.0)):
        file.count = 0
        decode_clip(file, 10.0, 48_000, rng)
        assert file.count < 0.15 * len(file.getvalue())


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_24"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
)
def test_every_format_sounds_the_same(kind, subtype):
    wave = tone(440, 1.0, 48_000)
    waveform, notes = decode_clip(encoded(wave, 48_000, kind, subtype), 1.0, 48_000)
    assert notes == []
    a, b = np.abs(np.fft.rfft(waveform)), np.abs(np.fft.rfft(wave))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999


@pytest.mark.parametrize("part", [0.21, 0.5, 1.0])
@pytest.mark.parametrize(
    ("kind", "subtype", "level", "tolerance"),
    [("MP3", None, None, 2e-6), ("MP3", None, 0.9, 2e-6), ("OGG", "VORBIS", None, 1e-6), ("OGG", "OPUS", 0.9, 1e-2)],
)
def test_a_crop_of_a_lossy_file_is_a_slice_of_it(kind, subtype, level, tolerance, part):
    file = encoded(chirp(12.0, 48_000), 48_000, kind, subtype, level)
    whole, _ = soundfile.read(io.BytesIO(file), dtype="float32")
    for target in (48_000, 32_000):
        crop, notes = decode_clip(file, 2.0, target, rng := At(part))
        start = int(part * (rng.bounds[0] - 1)) * (1 if target == 48_000 else 2)
        resampled = whole if target == 48_000 else soxr.resample(whole, 48_000, target)
        np.testing.assert_allclose(crop, resampled[start : start + 2 * target], rtol=0, atol=tolerance)
        assert offset(crop, resampled, start) == 0 and notes == []


def test_without_warming_up_an_mp3_crop_would_begin_wrong(monkeypatch):
    file = encoded(chirp(12.0, 48_000), 48_000, "MP3", None, 0.9)
    whole, _ = soundfile.read(io.BytesIO(file), dtype="float32")
    monkeypatch.setattr(decode, "WARM_UP", 0.0)
    crop, _ = decode_clip(file, 2.0, 48_000, rng := At(0.5))
    start = (rng.bounds[0] - 1) // 2
    difference = np.abs(crop - whole[start : start + 96_000])
    assert difference[:5_000].max() > 1e-2 and difference[5_000:].max() < 1e-5


@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_cut_off_file_gives_what_is_there_and_says_so(kind, rate):
    samples = noise(10.0, 16_000)
    file = encoded(samples, 16_000, kind)
    cut = file[: len(file) // 2]
    whole, _ = soundfile.read(io.BytesIO(file), dtype="float32")
    whole = soxr.resample(whole, 16_000, rate) if rate != 16_000 else whole
    waveform, notes = decode_clip(cut, 8.0, rate)
    held = int(np.flatnonzero(waveform)[-1]) + 1  # the rest is padding
    assert 4.5 * rate < held < 5.1 * rate
    np.testing.assert_allclose(waveform[: held - 300], whole[: held - 300], rtol=0, atol=1e-5)
    ends = [note for note in notes if note.startswith(("ends after 4", "ends after 5"))]
    assert len(ends) == 1 and ends[0].endswith(" s of the 10.00 s its header promises")
    early, _ = decode_clip(cut, 1.0, rate)
    np.testing.assert_allclose(early, whole[:rate], rtol=0, atol=1e-5)


def test_a_crop_beyond_the_end_of_a_cut_off_file_is_refused():
    file = encoded(noise(10.0, 16_000), 16_000, "FLAC")
    with pytest.raises(DataError, match=r"from 9\.00 s on, though its header promises 10\.00 s; copy it again"):
        decode_clip(file[: len(file) // 2], 1.0, 16_000, At(1.0))
    with pytest.raises(DataError, match=r"cannot be decoded from 0\.00 s on"):
        decode_clip(file[:200], 1.0, 16_000)


@pytest.mark.parametrize("share", [0.4, 0.5, 0.8])
@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_cut_off_lossy_files_give_sound_or_an_error(kind, subtype, share):
    file = encoded(chirp(10.0, 48_000), 48_000, kind, subtype)
    cut = file[: int(share * len(file))]
    waveform, _ = decode_clip(cut, 2.0, 48_000)
    np.testing.assert_allclose(waveform, decode_clip(file, 2.0, 48_000)[0], rtol=0, atol=1e-6)
    for part in (0.5, 1.0):
        try:
            assert decode_clip(cut, 2.0, 48_000, At(part))[0].shape == (96_000,)
        except DataError as error:  # only an mp3 promises more than it holds
            assert kind == "MP3" and "its header promises" in str(error)


def test_a_flac_that_does_not_tell_its_length_is_counted():
    samples = noise(5.0, 16_000)
    file = bytearray(encoded(samples, 16_000, "FLAC"))
    file[21] &= 0xF0  # the last 36 bits of these 8 bytes are the number of frames
    file[22:26] = bytes(4)
    assert soundfile.SoundFile(io.BytesIO(file)).frames == decode.UNKNOWN
    for source in (bytes(file), io.BytesIO(file)):
        crop, notes = decode_clip(source, 1.0, 16_000, rng := At(1.0))
        assert rng.bounds == [4 * 16_000 + 1]
        np.testing.assert_allclose(crop, samples[-16_000:], atol=1e-4)
        assert len(notes) == 1 and notes[0].startswith("does not say how long it is")


def test_a_wav_written_into_a_pipe_is_not_called_cut_off():
    file = bytearray(encoded(noise(2.0, 16_000)))
    file[40:44] = b"\xff" * 4  # the writer could not go back to fill in the size
    waveform, notes = decode_clip(bytes(file), 2.0, 16_000)
    assert notes == [] and np.abs(waveform[-100:]).max() > 0.1


def test_what_is_no_sound_is_refused_with_the_way_out(tmp_path):
    for name in ("text.wav", "text.raw"):
        (tmp_path / name).write_bytes(b"not a sound")
        for file in (b"not a sound", str(tmp_path / name), (tmp_path / name).open("rb")):
            with pytest.raises(DataError, match=r"cannot be decoded \(.*\); convert it to wav, flac, ogg, opus or mp3"):
                decode_clip(file, 1.0, 16_000)
    with pytest.raises(DataError, match=r"cannot be opened \(.*missing"):
        decode_clip(str(tmp_path / "missing.wav"), 1.0, 16_000)
    with pytest.raises(DataError, match="cannot be decoded"):  # FFmpeg would open what a playlist names
        decode_clip(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/hostname\n", 1.0, 16_000)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x1cftypM4A ", "MP4 (m4a, mp4, mov)"),
        (b"\x1aE\xdf\xa3" + bytes(8), "Matroska (webm, mkv)"),
        (b"\xff\xf1P@" + bytes(8), "AAC"),
    ],
)
def test_without_torchcodec_the_message_says_how_to_get_it(head, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(DataError) as caught:
        decode_clip(head + bytes(1_000), 1.0, 16_000)
    message = str(caught.value)
    assert message.startswith(f"is {kind} sound, which needs torchcodec and FFmpeg")
    assert 'pip install "atr[data]"' in message and "convert it to wav" in message


def test_torchcodec_is_imported_on_need_only():
    program = "import sys, atr.pipeline.audio; sys.exit('torchcodec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def converted(path, wave, rate, *options):
    """Writes `wave` through the ffmpeg command."""
    command = [FFMPEG, "-v", "error", "-f", "f32le", "-ar", str(rate), "-ac", "1", "-i", "pipe:0", *options, str(path)]
    subprocess.run(command, input=wave.tobytes(), check=True)
    return path


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options", "delay", "tolerance"),
    [
        ("a.m4a", ["-c:a", "aac"], 0, 1),
        ("a.mp4", ["-f", "lavfi", "-i", "testsrc=s=64x64:r=5:d=12", "-c:v", "mpeg4", "-c:a", "aac"], 0, 1),
        ("fragments.mp4", ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"], 0, 1),
        ("a.webm", ["-c:a", "libopus"], 0, 48),  # Matroska's times are whole ms
        ("live.webm", ["-c:a", "libopus", "-live", "1"], 0, 48),  # without a duration
        ("a.mkv", ["-c:a", "libvorbis"], 0, 48),
        ("a.aac", ["-c:a", "aac"], 1_024, 1),  # a raw stream cannot say what its encoder put before the sound
    ],
)
def test_ffmpeg_formats_are_cropped_at_the_right_place(name, options, delay, tolerance, tmp_path):
    rate = 48_000
    wave = chirp(12.0, rate)
    path = converted(tmp_path / name, wave, rate, *options)
    beginning, notes = decode_clip(path.read_bytes(), 2.0, rate)
    assert abs(offset(beginning, wave, -delay)) <= tolerance and notes == []
    for part in (0.4, 1.0):
        for file in (str(path), path.read_bytes(), path.open("rb")):
            crop, notes = decode_clip(file, 2.0, rate, rng := At(part))
            assert abs(rng.bounds[0] - 10 * rate) < 0.1 * rate and notes == []
            place = int(part * (rng.bounds[0] - 1)) - delay
            assert abs(offset(crop, wave, place)) <= tolerance
    whole, _ = decode_clip(path.read_bytes(), 12.0, rate)
    crop, _ = decode_clip(path.read_bytes(), 2.0, 16_000, rng := At(0.4))
    place = int(0.4 * (rng.bounds[0] - 1))
    expected = soxr.resample(whole, rate, 16_000)
    assert abs(offset(crop, expected, place, 1_000)) <= max(1, tolerance // 3)


@needs_ffmpeg
def test_a_container_without_usable_sound_is_refused(tmp_path):
    picture = tmp_path / "picture.mp4"
    subprocess.run(
        [FFMPEG, "-v", "error", "-f", "lavfi", "-i", "testsrc=s=64x64:r=5:d=1", "-c:v", "mpeg4", picture], check=True
    )
    with pytest.raises(DataError, match=r"is MP4 .* but no sound in it can be decoded"):
        decode_clip(str(picture), 1.0, 16_000)
    path = converted(tmp_path / "a.webm", chirp(10.0, 48_000), 48_000, "-c:a", "libopus")
    cut = path.read_bytes()[: path.stat().st_size // 2]
    with pytest.raises(DataError, match=r"from 8\.\d\d s on, though its header promises 10\.0\d s"):
        decode_clip(cut, 2.0, 48_000, At(1.0))
    _, notes = decode_clip(cut, 8.0, 48_000)
    assert len(notes) == 1 and notes[0].startswith(("ends after 4", "ends after 5"))
