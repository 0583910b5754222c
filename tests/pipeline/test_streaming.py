"""`data.streaming=true`: webdataset's pipeline with our samples; what it keeps, and that nothing is lost silently."""

import io
import json
import pickle
import tarfile
from types import SimpleNamespace

import pytest
import torch

from atr.errors import DataError, UsageError
from atr.experiment import train
from atr.pipeline.mixture import Mixture
from atr.shards.write import write_shards
from atr.types import BadSample
from tests.pipeline.test_datamodule import add_to_tar, module
from tests.shards.server import Server


@pytest.fixture
def four(tmp_path, clips):
    """Four shards of four clips."""
    write_shards(clips, tmp_path / "four", codec="flac", clips_per_shard=4)
    return tmp_path / "four"


def streamed(place, tokenizer, **changes):
    return module("", tokenizer, train=[place], test=[], streaming=True, **{"streaming_clips": 16} | changes)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_the_batches_asked_for_and_the_next_one_goes_on(four, tokenizer, workers):
    loader = streamed(four, tokenizer, num_workers=workers).train_dataloader()
    assert len(loader) == 4
    epochs = [list(loader) for _ in range(3)]
    for batches in epochs:
        assert [len(batch.samples) for batch in batches] == [4, 4, 4, 4]
        assert batches[0].waveform.shape == (4, 16_000) and batches[0].waveform.dtype == torch.int16
    orders = [[s.key for batch in batches for s in batch.samples] for batches in epochs]
    assert orders[0] != orders[1]
    assert len({key for order in orders for key in order}) > 12


def test_the_same_seed_and_workers_stream_the_same(four, tokenizer):
    one, two, other = (
        torch.cat([batch.waveform for batch in streamed(four, tokenizer, seed=seed).train_dataloader()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_a_resumed_run_streams_other_clips(four, tokenizer):
    fresh, resumed = streamed(four, tokenizer), streamed(four, tokenizer)
    resumed.resume_at = (1, 2)
    keys = [[s.key for b in data.train_dataloader() for s in b.samples] for data in (fresh, resumed)]
    assert keys[0] != keys[1]


def test_bad_samples_and_bad_shards_are_named(four, tokenizer):
    add_to_tar(four / "00000.tar", [("noise.wav", b"no sound"), ("noise.json", b'{"text": ["x"]}')])
    add_to_tar(four / "00001.tar", [("list.wav", b"no sound"), ("list.json", b"[1]")])
    (four / "00002.tar").write_bytes((four / "00002.tar").read_bytes()[:9000])
    (four / "00003.tar").write_bytes(b"")
    bad = [one for batch in streamed(four, tokenizer, streaming_clips=400).train_dataloader() for one in batch.bad]
    reasons = {one.key.rpartition("/")[2]: one.reason for one in bad}
    assert "cannot be decoded" in reasons["00000.tar:noise"]
    assert "its json is a list" in reasons["00001.tar:list"]
    assert "while it was streamed" in reasons["00002.tar"]
    assert "00003.tar" in reasons


def test_pickled_members_are_not_decoded(tmp_path, four, tokenizer):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for tar in four.glob("*.tar"):
        with tarfile.open(tar) as archive:
            key = archive.getnames()[-1].split(".")[0]
        with tarfile.open(tar, "a") as archive:
            info = tarfile.TarInfo(f"{key}.pyd")
            info.size = len(pickle.dumps(Trap()))
            archive.addfile(info, io.BytesIO(pickle.dumps(Trap())))
    assert len(list(streamed(four, tokenizer).train_dataloader())) == 4
    assert not (tmp_path / "sprung").exists()


def test_nothing_usable_is_an_error_and_not_an_endless_search(tmp_path, tokenizer):
    (tmp_path / "bad").mkdir()
    with tarfile.open(tmp_path / "bad" / "0.tar", "w"):
        pass
    add_to_tar(tmp_path / "bad" / "0.tar", [("a.wav", b"x"), ("a.json", json.dumps({"text": ["x"]}).encode())])
    with pytest.raises(DataError, match=r"1000 streamed clips in a row cannot be used; the last is .*0\.tar:a"):
        next(iter(streamed(tmp_path / "bad", tokenizer).train_dataloader()))
    (tmp_path / "bad" / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"nothing can be streamed; the last try: .*0\.tar"):
        next(iter(streamed(tmp_path / "bad", tokenizer).train_dataloader()))


def test_an_epoch_needs_a_length(four, tokenizer):
    with pytest.raises(UsageError, match=r"set data\.streaming_clips"):
        streamed(four, tokenizer, streaming_clips=None)


def test_pipes_are_run_without_a_shell(four, tokenizer):
    place = f"pipe:cat {four}/{{00000..00003}}.tar"
    assert len(list(streamed(place, tokenizer).train_dataloader())) == 4


def test_a_command_that_fails_half_way_is_named(tmp_path, four, tokenizer):
    script = tmp_path / "half.sh"
    script.write_text(f"#!/bin/sh\nhead -c 20480 {four}/$1.tar\nexit 22\n")
    script.chmod(0o755)
    data = streamed(f"pipe:{script} {{00000..00001}}", tokenizer, streaming_clips=100)
    reasons = {one.reason for batch in data.train_dataloader() for one in batch.bad}
    assert any("ended with status 22" in reason or "unexpected end" in reason for reason in reasons), reasons


def test_a_server_is_streamed_and_no_secret_is_shown(four, tokenizer):
    server = Server()
    for path in four.glob("*.tar"):
        server.files[path.name] = path.read_bytes()
    server.files["00001.tar"] = server.files["00001.tar"][:9000]
    place = server.url.replace("http://", "http://me:secret@") + "/plain/{00000..00003}.tar?signature=hidden"
    batches = list(streamed(place, tokenizer, streaming_clips=200).train_dataloader())
    server.shutdown()
    said = " ".join(f"{one.key} {one.reason}" for batch in batches for one in batch.bad)
    said += " ".join(sample.key for batch in batches for sample in batch.samples)
    assert "00001.tar" in said and "secret" not in said and "hidden" not in said
    assert len({sample.key for batch in batches for sample in batch.samples}) >= 12


def test_settings_that_need_an_index_are_refused(four, tokenizer):
    with pytest.raises(UsageError, match=r"data\.mixture needs the index"):
        streamed(four, tokenizer, mixture=Mixture(temperature=2.0))
    with pytest.raises(UsageError, match=r"data\.exclude_labels needs the index"):
        streamed(four, tokenizer, exclude_labels=["low_note"])


def test_a_stream_is_judged_by_what_has_come(four, tokenizer):
    ledger = streamed(four, tokenizer).ledger("train", 0.02)
    noted = SimpleNamespace(notes=[])
    for number in range(300):
        bad = [BadSample(f"k{number}", "bad")] if number % 100 == 50 else []
        ledger.add(SimpleNamespace(bad=bad, samples=[noted] * 4, waveform=torch.zeros(4, 1), clipped=0))
    assert ledger.clips == 1203
    with pytest.raises(DataError, match=r"25 of 1\d+ clips cannot be used"):
        for number in range(30):
            one = [BadSample(f"x{number}", "")]
            ledger.add(SimpleNamespace(bad=one, samples=[], waveform=torch.zeros(0), clipped=0))


def test_training_streams(tiny, four, capsys):
    numbers = train(tiny("data.streaming=true", "data.streaming_clips=16", f"data.train=[{four}]"))
    assert numbers["clips"] == 16 and "train is streamed, 16 clips an epoch" in capsys.readouterr().out
