"""Every kind of finding in real tars, and the quarantine."""

import io
import json
import shutil

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from atr.cli import app
from atr.errors import DataError, UsageError
from atr.shards.check import KINDS, check_shards, print_report
from atr.shards.examine import FACTS, examine_shard
from atr.shards.heard import in_runs
from atr.shards.index import index_path, load_index
from atr.shards.write import write_shards
from atr.types import Clip
from tests.conftest import SHARED, tone
from tests.shards.test_read import foreign_tar

CAPTION = {"text": ["a sound of its own"], "tag": ["x"]}


def sound(samples, rate=16_000, kind="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def described(**fields):
    return json.dumps(CAPTION | fields).encode()


def found(report):
    return [(one.key, one.kind) for one in report.findings]


ODD = tone(5000)
LOUD = np.clip(3 * np.sin(np.arange(16_000) / 7), -1, 1)
NAN = np.where(np.arange(16_000) == 3, np.nan, ODD)
CASES = [
    ("unreadable", [("bad.json", described())], "has no sound file beside its json"),
    ("unreadable", [("bad.json", described()), ("bad.wav", b"")], "its sound is empty"),
    ("unreadable", [("bad.json", described()), ("bad.wav", b"RIFFnonsense")], "cannot be decoded"),
    ("unreadable", [("bad.json", described()), ("bad.wav", sound(ODD[:0]))], "holds no samples"),
    ("unreadable", [("bad.json", described()), ("bad.wav", sound(ODD)[:20_000])], "ends after 0.62 s of the 1.00 s"),
    ("unreadable", [("bad.json", described()), ("bad.flac", sound(ODD, kind="FLAC")[:6000])], "ends after 0"),
    ("unreadable", [("bad.json", b'{"text": ["a"'), ("bad.wav", sound(ODD))], "its json cannot be read"),
    ("unreadable", [("bad.json", b"[1]"), ("bad.wav", sound(ODD))], "its json is a list, not an object"),
    ("unreadable", [("bad.json", described(text=3)), ("bad.wav", sound(ODD))], "a `text` of type int"),
    ("not-finite", [("bad.json", described()), ("bad.wav", sound(NAN, subtype="FLOAT"))], "1 of 16000 samples are NaN"),
    ("silent", [("bad.json", described()), ("bad.wav", sound(np.zeros(16_000)))], "peak −∞ dBFS"),
    ("silent", [("bad.json", described()), ("bad.wav", sound(ODD / ODD.max() / 2000))], "peak −65.7 dBFS"),
    (
        "silent",
        [("bad.json", described()), ("bad.wav", sound(np.full(16_000, 0.5)))],
        "−6.0 dBFS, all of it a constant",
    ),
    ("clipped", [("bad.json", described()), ("bad.wav", sound(LOUD))], "78.36% of its samples stand at full scale"),
    ("too-short", [("bad.json", described()), ("bad.wav", sound(ODD[:1500]))], "0.094 s; 0.1 s is the least"),
    ("wrong-rate", [("bad.json", described()), ("bad.wav", sound(ODD, 22_050))], "22050 Hz; 16 samples have 16000 Hz"),
    ("no-caption", [("bad.json", b"{}"), ("bad.wav", sound(ODD))], "has neither a caption"),
    ("no-caption", [("bad.wav", sound(ODD))], "has neither a caption"),
    ("no-caption", [("bad.json", b'{"text": [" "], "tag": "x"}'), ("bad.wav", sound(ODD))], "has a label, but no"),
    (
        "not-utf8",
        [("bad.json", b'{"text": "caf\xe9"}'), ("bad.wav", sound(ODD))],
        "invalid continuation byte at byte 13",
    ),
    ("not-utf8", [("bad.json", '{"text": "a"}'.encode("utf-16")), ("bad.wav", sound(ODD))], "its json is no UTF-8"),
    ("not-utf8", [("bad.json", described(text="a cafÃ©")), ("bad.wav", sound(ODD))], "(it was 'a café') in 'a cafÃ©'"),
    ("not-utf8", [("bad.json", described(text="itâ€™s")), ("bad.wav", sound(ODD))], "UTF-8 read as cp1252"),
    ("not-utf8", [("bad.json", described(tag="\ufffd")), ("bad.wav", sound(ODD))], "U+FFFD"),
    ("not-utf8", [("bad.json", described(title="\ud83d")), ("bad.wav", sound(ODD))], "half a surrogate pair"),
    ("duplicate-audio", [("bad.json", described()), ("bad.wav", sound(tone(200)))], "the same samples as"),
    ("same-source", [("bad.json", described(source="source3")), ("bad.wav", sound(ODD))], "00000.tar:note03"),
]


@pytest.mark.parametrize(("kind", "members", "detail"), CASES)
def test_one_bad_sample_among_good_ones_is_found_and_nothing_else(shards, kind, members, detail):
    foreign_tar(shards / "00001.tar", members)
    report = check_shards([shards])
    (finding,) = report.findings
    assert (finding.shard, finding.key, finding.kind) == (str(shards / "00001.tar"), "bad", kind)
    assert detail in finding.detail
    assert (report.shards, report.clips) == (2, 17)
    assert not index_path(shards / "00001.tar").exists()


def test_a_clean_set_has_no_findings_and_status_0(shards):
    report = check_shards([shards], workers=1)
    assert report.findings == [] and report.clips == 16
    assert report.seconds == pytest.approx(sum(1 + 0.05 * number for number in range(16)), abs=1e-3)
    result = CliRunner().invoke(app, ["check", str(shards)])
    assert result.exit_code == 0 and "16 clips in 1 shards" in result.stdout and "0 with problems" in result.stdout


def test_good_text_is_not_taken_for_bad(shards):
    text = ["a café in NÃO PAULO", "Ångström, £5 — 25 °C", "лай собаки", "犬", "déjà vu à Âge"]
    foreign_tar(shards / "00001.tar", [("a.json", described(text=text)), ("a.wav", sound(ODD))])
    foreign_tar(
        shards / "00002.tar", [("b.json", b"\xef\xbb\xbf" + described(text=["ok"])), ("b.wav", sound(tone(90)))]
    )
    assert found(check_shards([shards])) == []


def test_labels_are_enough_in_a_folder_without_captions(tmp_path):
    for name, meta in (("labelled", {"tag": ["dog"]}), ("captioned", {"text": ["a dog"]})):
        (tmp_path / name).mkdir()
        wave = tone(300 if meta.get("tag") else 500)
        foreign_tar(tmp_path / name / "0.tar", [("a.json", json.dumps(meta).encode()), ("a.wav", sound(wave))])
    assert not check_shards([tmp_path / "labelled", tmp_path / "captioned"]).findings


def test_overlaps_of_the_same_file_only(tmp_path):
    def member(key, start, end, file="long.wav", source="youtube:x"):
        meta = described(source=source, file=file, start=start, end=end)
        return [(f"{key}.json", meta), (f"{key}.wav", sound(tone(100 + 50 * len(keys))))]

    keys = []
    times = [("a", 0, 4), ("b", 4, 8), ("c", 7, 12), ("d", 9, 10), ("e", None, None), ("f", 11.5, None)]
    members = []
    for key, start, end in times:
        members += member(key, start, end)
        keys.append(key)
    members += member("g", 0, 4, file="other.wav")
    foreign_tar(tmp_path / "0.tar", members)
    report = check_shards([tmp_path], allow=["same-source"])
    overlaps = [(one.key, one.detail) for one in report.findings if one.kind == "overlap"]
    tar = tmp_path / "0.tar"
    assert overlaps == [
        ("c", f"7.00 to 12.00 s of a file whose 4.00 to 8.00 s are in {tar}:b"),
        ("d", f"9.00 to 10.00 s of a file whose 7.00 to 12.00 s are in {tar}:c"),
        ("f", f"11.50 to 12.50 s of a file whose 7.00 to 12.00 s are in {tar}:c"),
    ]
    assert [one.key for one in report.findings if one.kind == "same-source"] == ["b", "c", "d", "e", "f", "g"]


def test_a_flipped_byte_differs_from_the_index(tmp_path, clips):
    write_shards(clips, tmp_path / "wav", codec="wav")
    tar = tmp_path / "wav" / "00000.tar"
    place = int(load_index(tar).rows[3]["audio_offset"]) + 5000
    content = bytearray(tar.read_bytes())
    content[place] ^= 1
    tar.write_bytes(content)
    (finding,) = check_shards([tmp_path / "wav"], quarantine=True).findings
    assert (finding.key, finding.kind) == ("(tar)", "unreadable")
    assert finding.detail.startswith("its SHA-256 is ") and "delete 00000.index.json" in finding.detail
    assert not (tmp_path / "wav" / "quarantine.jsonl").exists()  # nobody knows which sample it is


def test_what_a_cut_off_tar_lost_is_named(shards):
    tar = shards / "00000.tar"
    place = int(load_index(tar).rows[14]["audio_offset"])
    tar.write_bytes(tar.read_bytes()[: place + 100])
    report = check_shards([shards])
    assert report.clips == 14
    assert [one.key for one in report.findings] == ["(tar)", "note14", "note15"]
    assert {one.kind for one in report.findings} == {"unreadable"}
    load_index(tar)  # as the loader does: the index is made again, and remembers
    assert [one.key for one in check_shards([shards]).findings] == ["note14", "note15"]


def test_a_shard_that_is_no_tar_and_one_that_sizes_json_misses(shards):
    (shards / "00001.tar").write_text("this is not a tar")
    (shards / "sizes.json").write_text('{"00000.tar": 18}')
    report = check_shards([shards], quarantine=True)
    assert [(one.key, one.kind) for one in report.findings] == [("(missing)", "unreadable"), ("(tar)", "unreadable")]
    assert report.findings[0].detail == "sizes.json counts 18 samples, 16 can be read"
    assert "not a readable tar" in report.findings[1].detail


def test_a_folder_and_one_of_its_tars_in_other_spellings(tmp_path, clips, monkeypatch):
    write_shards(clips, tmp_path / "one", codec="flac", clips_per_shard=8)
    (tmp_path / "one" / "sizes.json").write_text('{"00000.tar": 8, "00001.tar": 8}')
    monkeypatch.chdir(tmp_path)
    report = check_shards([tmp_path / "one" / "00000.tar", "one"])
    assert (report.shards, report.clips, report.findings) == (2, 16, [])


def test_two_folders_are_compared_and_workers_change_nothing(tmp_path, clips):
    write_shards(clips, tmp_path / "one", codec="flac", clips_per_shard=5)
    write_shards([Clip(id="twin", audio=clips[6].audio, captions=["twin"])], tmp_path / "two", codec="wav")
    places = [tmp_path / "one", tmp_path / "two", tmp_path / "one"]
    first, second = (check_shards(places, workers=workers) for workers in (1, 2))
    (finding,) = first.findings
    assert (finding.shard, finding.key, finding.kind) == (
        str(tmp_path / "two" / "00000.tar"),
        "twin",
        "duplicate-audio",
    )
    assert finding.detail == f"the same samples as {tmp_path / 'one' / '00001.tar'}:note06"
    assert (first.findings, first.clips, first.seconds) == (second.findings, 17, second.seconds)


def test_a_long_sound_is_decoded_in_blocks(tmp_path, monkeypatch):
    wave = np.concatenate([tone(300 + number, 2.0, 48_000) for number in range(4)])
    members = []
    for kind, subtype in (("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")):
        key = subtype.lower()
        content = sound(wave, 48_000, kind, subtype)
        members += [(f"{key}.json", described()), (f"{key}.{kind.lower()}", content)]
    for name in ("whole", "blocks"):
        (tmp_path / name).mkdir()
        foreign_tar(tmp_path / name / "0.tar", members)
    whole = examine_shard(tmp_path / "whole" / "0.tar", 0.1)
    monkeypatch.setattr("atr.shards.heard.BLOCK", 10_007)
    monkeypatch.setattr("atr.shards.examine.WHOLE", 1000)  # from the tar, not from memory
    blocks = examine_shard(tmp_path / "blocks" / "0.tar", 0.1)
    assert whole.faults == blocks.faults == [] and whole.seconds == blocks.seconds
    assert whole.facts["sound"][0] == blocks.facts["sound"][0]  # flac
    assert examine_shard(tmp_path / "whole" / "0.tar", 0.1).facts["sound"].tolist() == blocks.facts["sound"].tolist()
    assert FACTS.itemsize == 45  # said in check.py


def test_runs_at_full_scale():
    loud = np.array([[1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]], bool).T
    assert in_runs(loud) == 7
    assert in_runs(loud[:2]) == 0


def test_allow_and_strict(shards):
    foreign_tar(shards / "00001.tar", [("bad.json", described()), ("bad.wav", sound(LOUD[:1000]))])
    assert [one.kind for one in check_shards([shards]).bad] == ["too-short"]
    assert not check_shards([shards], allow=["too-short"]).bad
    assert [one.kind for one in check_shards([shards], strict=["clipped"]).bad] == ["too-short", "clipped"]
    assert not check_shards([shards], min_seconds=0.05).bad
    rates = check_shards([shards], allow=["too-short"], sample_rate=32_000)
    assert len(rates.bad) == 17 and rates.bad[0].detail == "16000 Hz; 32000 Hz is wanted"
    with pytest.raises(UsageError, match="no kind of finding 'quiet'; allowed: unreadable, not-finite"):
        check_shards([shards], allow=["quiet"])
    with pytest.raises(UsageError, match="'silent' cannot be allowed and strict at once"):
        check_shards([shards], allow=["silent"], strict=["silent"])
    with pytest.raises(UsageError, match="workers is 0"):
        check_shards([shards], workers=0)
    with pytest.raises(UsageError, match="min_seconds is -1"):
        check_shards([shards], min_seconds=-1)
    with pytest.raises(DataError, match="is remote; check reads shards on this machine"):
        check_shards(["https://host/0.tar"])


def test_json_table_and_exit_status(shards, tmp_path):
    silent, odd = sound(np.zeros(16_000)), sound(np.zeros(8000))
    foreign_tar(
        shards / "00001.tar", [("s[1].json", described()), ("s[1].wav", silent), ("t.json", b"{}"), ("t.wav", odd)]
    )
    out = tmp_path / "all.json"
    result = CliRunner().invoke(app, ["check", str(shards), "--json", "--out", str(out)])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert list(report) == ["totals", "counts", "problems", "findings", "settings"]
    assert {name: report["totals"][name] for name in ("shards", "clips", "hours", "samples_with_problems")} == {
        "shards": 2, "clips": 18, "hours": 0.0065, "samples_with_problems": 2,
    }  # fmt: skip
    assert list(report["counts"]) == list(KINDS) and report["counts"]["silent"] == 2
    assert report["findings"][0] == {
        "shard": str(shards / "00001.tar"), "key": "s[1]", "kind": "silent", "detail": "peak −∞ dBFS", "problem": True,
    }  # fmt: skip
    assert report["settings"]["places"] == [str(shards)] and report["settings"]["min_seconds"] == 0.1
    assert json.loads(out.read_text())["findings"] == report["findings"]
    table = CliRunner().invoke(app, ["check", str(shards)])
    assert table.exit_code == 1
    flat = table.stdout.replace("\n", "").replace(" ", "")
    assert "problemsilent2" in flat and "s[1]:peak" in flat and "problemno-caption1" in flat
    assert CliRunner().invoke(app, ["check", str(shards), "--allow", "silent", "--allow", "no-caption"]).exit_code == 0


def test_a_file_that_cannot_be_written_is_told_before_the_work(shards, tmp_path, monkeypatch):
    result = CliRunner().invoke(app, ["check", str(shards), "--out", str(tmp_path)])
    assert "16 clips in 1 shards" in result.stdout and "the findings cannot be written" in str(result.exception)
    monkeypatch.setattr("atr.shards.check.check_shards", None)
    result = CliRunner().invoke(app, ["check", str(shards), "--out", str(tmp_path / "gone" / "all.json")])
    assert isinstance(result.exception, UsageError) and "its folder does not exist" in str(result.exception)


def test_the_help_has_examples():
    result = CliRunner().invoke(app, ["check", "--help"])
    assert result.exit_code == 0 and "atr check data/mine/train --quarantine" in result.stdout
    assert all(kind in result.stdout for kind in KINDS)


@pytest.mark.skipif(not (SHARED / "data" / "odd_audio").is_dir(), reason="no odd_audio there")
def test_odd_encodings(tmp_path):
    folder = SHARED / "data" / "odd_audio"
    clips = [
        Clip(id=path.stem, audio=str(path), captions=[path.stem])
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in (".wav", ".ogg", ".opus")
    ]
    write_shards(clips, tmp_path / "odd")
    report = check_shards([tmp_path / "odd"], allow=["wrong-rate"])
    assert [(one.key, one.kind) for one in report.bad] == [("digital_silence", "silent"), ("mono_int24", "too-short")]


def test_a_report_prints_what_is_no_sample(shards, capsys):
    (shards / "00001.tar").write_text("[bold]not a tar")
    print_report(check_shards([shards]))
    assert "(tar)" in capsys.readouterr().out.replace("\n", "")


def test_a_sample_that_ends_its_worker_is_named(shards, monkeypatch):
    import os

    monkeypatch.setattr("atr.shards.examine.open_sound", lambda file: os._exit(7))
    with pytest.raises(DataError, match=r"00000\.tar: note00: its process ended with status 7"):
        check_shards([shards])


def test_shards_stay_as_they_are(shards):
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    shutil.copytree(shards, shards.parent / "copy")
    check_shards([shards, shards.parent / "copy"])
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before
