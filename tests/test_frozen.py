"""The file beside a captioner's checkpoints: whole, and the right one."""

import pytest
import torch

from atr.errors import CheckpointError
from atr.frozen import FILE, content_hash, read_frozen, write_frozen

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(3)}


def test_the_hash_is_of_names_types_shapes_and_values():
    digest = content_hash(TENSORS)
    assert digest == content_hash({name: value.clone() for name, value in reversed(TENSORS.items())})
    b = TENSORS["b"]
    others = [{"c": b}, {"b": b.view(3, 2)}, {"b": b.double()}, {"b": b + 1e-6}]
    assert digest not in {content_hash({"a": TENSORS["a"]} | other) for other in others}


def test_what_was_written_is_read(tmp_path):
    view = {"b": torch.zeros(3, 2).copy_(TENSORS["b"].T).T, "a": TENSORS["a"]}
    write_frozen(view, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [FILE]
    (tmp_path / "any").touch()
    assert (tmp_path / "run" / FILE).stat().st_mode == (tmp_path / "any").stat().st_mode
    read = read_frozen(tmp_path / "run" / "last.ckpt", content_hash(TENSORS))
    assert read.keys() == TENSORS.keys() and all(torch.equal(read[name], TENSORS[name]) for name in read)


def test_a_file_that_is_not_there_is_another_or_is_cut_off_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=rf"needs {FILE} of its run beside it.*\(sha256 abc…\); copy both"):
        read_frozen(tmp_path / "last.ckpt", "abc")
    write_frozen(TENSORS, tmp_path)
    with pytest.raises(CheckpointError, match=r"holds other weights \(sha256 .*…\) than last.ckpt was trained on"):
        read_frozen(tmp_path / "last.ckpt", content_hash(TENSORS | {"a": torch.tensor(4)}))
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="is cut off, or of another kind"):
        read_frozen(tmp_path / "last.ckpt", content_hash(TENSORS))
