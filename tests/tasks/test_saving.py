"""The best checkpoints by a number: which files there are, what they hold, and that a resumed run knows them."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from atr.checkpoint import read_checkpoint
from atr.experiment import train
from atr.tasks import contrastive, trainer

MONITOR = "validation/retrieval/t2a/mAP@10"


class Scripted:
    """Runs whose validations have given scores, one for each epoch of 2 steps."""

    def __init__(self, tiny, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        self.tiny, self.monkeypatch = tiny, monkeypatch

    def __call__(self, name, scores, *more, epochs=None):
        given = iter(scores)
        script = type("Script", (), {"flat": lambda self: {"retrieval/t2a/mAP@10": next(given)}})
        self.monkeypatch.setattr(contrastive, "score", lambda *arguments, **named: script())
        folder = self.tiny.run_dir.parent / "runs" / name
        train(
            self.tiny(
                f"run_dir={folder}", f"data.validation=[{self.tiny.shards}]", "leaks.action=ignore", "data.test=[]",
                f"evaluation.monitor={MONITOR}", f"trainer.max_epochs={epochs or len(scores)}", *more,
            )
        )  # fmt: skip
        return folder / "checkpoints"


@pytest.fixture
def run(tiny, monkeypatch):
    return Scripted(tiny, monkeypatch)


def best(folder: Path) -> dict[str, int]:
    """Name -> step; each has its weights beside it."""
    found = {path.name: read_checkpoint(path).step for path in folder.glob("best*.ckpt")}
    for path in folder.glob("best*.ckpt"):
        assert read_checkpoint(path.with_suffix(".safetensors")).step == found[path.name]
    assert len(list(folder.glob("best*.safetensors"))) == len(found)
    return found


@pytest.mark.parametrize(
    ("scores", "keep", "expected"),
    [
        ([0.3, 0.5, 0.4], 1, {"best.ckpt": 4}),
        ([0.3, 0.5, 0.4], 2, {"best.ckpt": 4, "best-step000006-0.4000.ckpt": 6}),
        ([0.3, 0.5, 0.4, 0.6], 2, {"best.ckpt": 8, "best-step000004-0.5000.ckpt": 4}),
        ([0.3, math.nan, 0.3, 0.2], 2, {"best.ckpt": 2, "best-step000006-0.3000.ckpt": 6}),
        ([math.nan], 1, {}),
    ],
)  # fmt: skip
def test_the_best_are_kept_by_their_score_and_the_first_of_equal_ones_is_before(run, scores, keep, expected):
    assert best(run("one", scores, f"checkpoint.keep_best={keep}")) == expected


def test_a_resumed_run_knows_the_best_ones_before_it(run, tiny, monkeypatch):
    first = run("first", [0.9, 0.3, 0.5], "checkpoint.keep_best=2")
    kept = {"best.ckpt": 2, "best-step000006-0.5000.ckpt": 6}
    assert best(first) == kept
    second = run("second", [0.4, 0.1], "checkpoint.keep_best=2", "resume=auto", epochs=5)
    assert best(second) == kept
    before, after = (torch.load(folder / "best.ckpt", weights_only=True)["state_dict"] for folder in (first, second))
    assert all(torch.equal(before[key], after[key]) for key in before)
    third = run("third", [0.6], "checkpoint.keep_best=2", "resume=auto", epochs=6)
    assert best(third) == {"best.ckpt": 2, "best-step000012-0.6000.ckpt": 12}
    assert best(second) == best(first) == kept  # what is in other folders is left alone
    monkeypatch.undo()
    torch.set_num_threads(1)
    read: list[Path] = []
    monkeypatch.setattr(trainer, "read_checkpoint", lambda path: read.append(path) or read_checkpoint(path))
    folder = tiny.run_dir.parent / "runs" / "fourth"
    train(
        tiny(
            f"run_dir={folder}", f"data.validation=[{tiny.shards}]", "leaks.action=ignore", "resume=auto",
            f"evaluation.monitor={MONITOR}", "trainer.max_epochs=6", "checkpoint.keep_best=2",
        )
    )  # fmt: skip
    assert read == [folder / "checkpoints" / "best.ckpt"]  # a finished run is evaluated by its best one


def test_from_an_earlier_checkpoint_the_best_up_to_it_is_gone_on_with(run, tmp_path, capsys):
    """The run before went further after that checkpoint and found a better one, which this run has not seen."""
    first = run("first", [0.5, 0.3], "checkpoint.keep_best=2")
    shutil.copy(first / "last.ckpt", tmp_path / "early.ckpt")
    run("first", [0.9], "checkpoint.keep_best=2", f"resume={tmp_path / 'early.ckpt'}", epochs=3)
    assert best(first) == {"best.ckpt": 6, "best-step000002-0.5000.ckpt": 2}
    again = run("again", [0.4], "checkpoint.keep_best=2", f"resume={tmp_path / 'early.ckpt'}", epochs=3)
    assert best(again) == {"best.ckpt": 2, "best-step000006-0.4000.ckpt": 6}
    assert "any more" in capsys.readouterr().out  # 0.3 of step 4 made room
    shutil.rmtree(first)
    alone = run("alone", [0.1], "checkpoint.keep_best=2", f"resume={tmp_path / 'early.ckpt'}", epochs=3)
    assert best(alone) == {"best.ckpt": 6}
    assert f"{MONITOR} was 0.5000 after step 2, whose file is not under {first} any more" in capsys.readouterr().out


def test_another_number_makes_a_new_search(run):
    run("first", [0.9])
    second = run("second", [0.4], "resume=auto", "trainer.max_epochs=2", epochs=2)
    assert best(second) == {"best.ckpt": 2}
    other = ["evaluation.monitor=validation/retrieval/t2a/R@1", "resume=auto", "trainer.max_epochs=3"]
    with pytest.raises(Exception, match="no number of the validation; there are: validation/retrieval/t2a/mAP@10"):
        run("third", [0.4], *other, epochs=3)
