"""`quarantine.jsonl`: written by check, honoured by the loader, part of what a run is resumed with."""

import json
import warnings

import numpy as np
import pytest

from atr.errors import CheckpointError, DataError
from atr.experiment import train
from atr.pipeline.dataset import Training
from atr.pipeline.mixture import EpochOrder, Mixture
from atr.pipeline.streaming import StreamedClips
from atr.shards.check import check_shards
from atr.shards.find import find_shards
from atr.shards.quarantine import Quarantined, read_quarantine
from atr.shards.read import ShardSet
from atr.shards.write import write_shards
from atr.types import BadSample
from tests.conftest import tone
from tests.shards.test_check import described, sound
from tests.shards.test_read import foreign_tar


@pytest.fixture
def bad(shards):
    """Beside the 16 good clips in 00000.tar: a silent one, a good one, a twin of note00 with no caption."""
    members = [
        ("a.json", described()), ("a.wav", sound(np.zeros(16_000))), ("b.json", described()),
        ("b.wav", sound(tone(5000))), ("c.json", b"{}"), ("c.wav", sound(tone(200))),
    ]  # fmt: skip
    foreign_tar(shards / "00001.tar", members)
    return shards


def rows(folder):
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]


def leave_out(folder, *keys, shard="00000.tar"):
    lines = [json.dumps({"shard": shard, "key": key, "reason": "by hand"}) + "\n" for key in keys]
    (folder / "quarantine.jsonl").write_text("".join(lines))


def test_check_writes_one_row_for_each_sample_with_problems(bad):
    check_shards([bad], quarantine=True)
    twin = f"the same samples as {bad / '00000.tar'}:note00"
    assert rows(bad) == [
        {"shard": "00001.tar", "key": "a", "reason": "silent: peak −∞ dBFS"},
        {
            "shard": "00001.tar", "key": "c",
            "reason": f"no-caption: has neither a caption (`text`) nor a label (`tag`); duplicate-audio: {twin}",
        },
    ]  # fmt: skip
    assert not [path for path in bad.iterdir() if path.name.startswith(".")]


def test_a_new_check_reads_what_is_in_quarantine_and_replaces_the_file(bad):
    first = check_shards([bad], quarantine=True)
    assert check_shards([bad]).findings == first.findings
    check_shards([bad], allow=["silent"], quarantine=True)
    assert [row["key"] for row in rows(bad)] == ["c"]
    check_shards([bad], allow=["silent", "no-caption", "duplicate-audio"], quarantine=True)
    assert not (bad / "quarantine.jsonl").exists()


def test_a_check_of_one_tar_keeps_what_is_said_of_the_others(bad):
    leave_out(bad, "note03", "note04")
    check_shards([bad / "00001.tar"], quarantine=True)
    assert [row["key"] for row in rows(bad)] == ["note03", "note04", "a", "c"]
    check_shards([bad / "00000.tar"], quarantine=True)
    assert [row["key"] for row in rows(bad)] == ["a", "c"]


def test_what_cannot_be_written_is_said_before_the_work(bad, monkeypatch):
    (bad / "quarantine.jsonl").write_text("broken\n")
    monkeypatch.setattr("atr.shards.check.run_forked", None)
    with pytest.raises(DataError, match=r"quarantine\.jsonl:1: is no JSON"):
        check_shards([bad / "00001.tar"], quarantine=True)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(DataError, match=r"shards: quarantine\.jsonl cannot be written there; make it writable"):
        check_shards([bad], quarantine=True)


def test_the_loader_leaves_them_out(bad):
    check_shards([bad], quarantine=True)
    shards = ShardSet([bad])
    assert len(shards) == 17 and shards.lost == []
    assert shards.quarantined[0] == BadSample(f"{bad / '00001.tar'}:a", "silent: peak −∞ dBFS")
    assert [one.key.rpartition(":")[2] for one in shards.quarantined] == ["a", "c"]
    assert shards.name(16) == f"{bad / '00001.tar'}:b" and shards.left_out.tolist() == [16, 18]


def test_numbers_stay_right_where_samples_are_left_out(tmp_path, clips):
    for name, part in (("one", clips[:10]), ("two", clips[10:])):
        write_shards(part, tmp_path / name, codec="flac", clips_per_shard=4)
    leave_out(tmp_path / "one", "note00", "note03")
    leave_out(tmp_path / "two", "note10", "note11", "note12", "note13")
    shards = ShardSet({"one": [tmp_path / "one"], "two": [tmp_path / "two"]})
    ids = [shards.metadata(number)["id"] for number in range(len(shards))]
    assert ids == [f"note{number:02d}" for number in (1, 2, 4, 5, 6, 7, 8, 9, 14, 15)]
    assert shards.shard_of().tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 4, 4]
    assert [shards.corpus(number) for number in range(10)] == ["one"] * 8 + ["two"] * 2
    rng = np.random.default_rng(0)
    assert {shards.another(3, rng) for _ in range(200)} == set(range(8))
    assert {shards.another(9, rng) for _ in range(200)} == {8, 9}
    order = EpochOrder(shards, Mixture(window=1), seed=0)
    assert sorted(order.numbers(0).tolist()) == list(range(10))
    shards.select([1, 3, 9])
    assert [shards.metadata(number)["id"] for number in range(3)] == ["note02", "note05", "note15"]
    assert shards.shard_of().tolist() == [0, 1, 4]


def test_a_folder_named_twice_leaves_out_both_times_and_lists_once(shards):
    leave_out(shards, "note01")
    both = ShardSet({"x": [shards], "y": [shards]})
    assert len(both) == 30 and len(both.quarantined) == 1 and both.left_out.tolist() == [1, 17]


def test_rows_that_match_no_sample_are_named(bad):
    leave_out(bad, "note01", "gone")
    with pytest.warns(UserWarning, match=r"quarantine\.jsonl: 1 rows match no sample, e\.g\. 00000\.tar:gone; if"):
        assert len(ShardSet([bad])) == 18
    leave_out(bad, "note01", shard="../00000.tar")
    with pytest.warns(UserWarning, match=r"1 rows match no sample, e\.g\. \.\./00000\.tar:note01"):
        assert len(ShardSet([bad])) == 19
    leave_out(bad, "note01")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(ShardSet([bad / "00001.tar"])) == 3  # the row is another tar's


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"quarantine\.jsonl:2: is no JSON"),
        ('{"shard": "00000.tar", "key": 3, "reason": ""}', r"jsonl:2: is b'.*'; allowed is an object with shard, key,"),
        ("[]", r"quarantine\.jsonl:2: is b'\[\]'; .* write the file again with: atr check FOLDER --quarantine"),
        ("\udcff", r"quarantine\.jsonl:2: is no JSON"),
    ],
)
def test_a_damaged_file_is_refused(shards, line, message):
    leave_out(shards, "note01")
    with (shards / "quarantine.jsonl").open("a", errors="surrogateescape") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        ShardSet([shards])
    check_shards([shards], quarantine=True)  # writes it again, or removes it
    assert len(ShardSet([shards])) == 16


def test_a_file_that_leaves_nothing_is_refused(shards):
    leave_out(shards, *(f"note{number:02d}" for number in range(16)))
    with pytest.raises(
        DataError, match=r"all 16 clips are left out by quarantine\.jsonl; the first is .*note00: by ha"
    ):
        ShardSet([shards])


def test_keys_of_any_script(tmp_path, clips):
    foreign_tar(tmp_path / "0.tar", [(f"{key}.json", described()) for key in ("лай", "b", "c d")])
    leave_out(tmp_path, "лай", "c d", shard="0.tar")
    assert read_quarantine(tmp_path)[0] == Quarantined("0.tar", "лай", "by hand")
    assert ShardSet([tmp_path]).name(0).endswith(":b")


def test_a_stream_leaves_them_out_too(shards):
    leave_out(shards, *(f"note{number:02d}" for number in range(14)))
    training = Training(1.0, 16_000, "<mask>")
    stream = StreamedClips([(place, "") for place in find_shards(shards)], training, [0], 4, 4, 0)
    assert {sample.key.rpartition(":")[2] for sample, _ in stream} == {"note14", "note15"}


def test_training_leaves_them_out_and_is_not_resumed_with_others(tiny, bad, tmp_path, capsys):
    check_shards([bad], quarantine=True)
    train(tiny("trainer.max_epochs=1", "bad_samples=0"))
    out = capsys.readouterr().out
    assert "train: 2 clips are left out by quarantine.jsonl" in out and "17 clips for train" in out
    assert "test: 2 clips are left out by quarantine.jsonl" in out and "were skipped" not in out
    data = json.loads((tiny.run_dir / "environment.json").read_text())["data"]
    assert data["train"]["clips"] == 17
    again = [f"run_dir={tmp_path / 'again'}", f"resume={tiny.run_dir / 'checkpoints' / 'last.ckpt'}"]
    kept = (bad / "quarantine.jsonl").read_text()
    leave_out(bad, "note03", "note04")
    with pytest.raises(CheckpointError, match=r"was trained on other shards.*with its quarantine\.jsonl"):
        train(tiny(*again))
    (bad / "quarantine.jsonl").write_text(kept)
    train(tiny("trainer.max_epochs=2", *again))
