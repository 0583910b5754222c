"""What chance gives, in closed form, and the warnings of a run that is not there, or does not leave it."""

import re
from types import SimpleNamespace

import pytest
import torch

from atr.config import build
from atr.errors import UsageError
from atr.experiment import train
from atr.losses import InfoNCE, SigmoidLoss
from atr.shards.write import write_shards
from atr.tasks import chance as module
from atr.tasks.chance import CompareWithChance, candidates_left, chance, constant_guess, oddities
from atr.types import Embeddings
from tests.conftest import make_clips
from tests.test_losses import batch_of

CAPTIONS, CLIPS, LABELS = [1, 2, 1, 3, 4, 5, 2, 6], [9, 8, 7, 7, 6, 5, 4, 3], [1, 1, 2, 2, 3, 3, 4, 4]


def slow_candidates(by: list[list[int]]) -> list[float]:
    rows = range(len(CAPTIONS))
    return [
        float(sum(not any(ids[i] == ids[j] for ids in by) or i == j for j in rows))
        for i in rows
    ]  # fmt: skip


@pytest.mark.parametrize("at_once", [3, 256])
def test_candidates_are_counted_as_the_slow_loop_counts_them(monkeypatch, at_once):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", at_once)
    batch = batch_of(CAPTIONS, CLIPS, LABELS)
    assert candidates_left(batch, ("caption", "clip")).tolist() == slow_candidates([CAPTIONS, CLIPS])
    everything = candidates_left(batch, ("caption", "clip", "label"))
    assert everything.tolist() == slow_candidates([CAPTIONS, CLIPS, LABELS]) != slow_candidates([CAPTIONS, CLIPS])
    assert candidates_left(batch, ()).tolist() == [8.0] * 8


def test_each_rank_counts_its_clips_against_the_captions_of_all(monkeypatch):
    both = torch.tensor([CAPTIONS, CLIPS]).T
    second = batch_of(CAPTIONS[4:], CLIPS[4:])
    monkeypatch.setattr(module, "place", lambda: (1, 2))
    monkeypatch.setattr(module, "gather", lambda own: both if torch.equal(own, both[4:]) else None)
    assert candidates_left(second, ("caption", "clip")).tolist() == slow_candidates([CAPTIONS, CLIPS])[4:]


def orthogonal(rows: int) -> Embeddings:
    """All cosines are 0."""
    return Embeddings(torch.eye(2)[[0] * rows], torch.eye(2)[[1] * rows])


@pytest.mark.parametrize(
    "loss", [InfoNCE(exclude=["caption", "clip"]), SigmoidLoss(bias=-3.0, exclude=["caption", "clip"])]
)
def test_chance_is_the_loss_of_towers_that_know_nothing(loss):
    batch = batch_of(CAPTIONS, CLIPS)
    left = candidates_left(batch, loss.exclude)
    assert chance(loss, left) == pytest.approx(float(loss(orthogonal(8), batch)), abs=1e-5)
    assert chance(loss, torch.full((8,), 8.0)) != pytest.approx(float(loss(orthogonal(8), batch)), abs=1e-2)


def test_a_constant_guess_is_the_lowest_sigmoid_loss_without_looking():
    loss, batch = SigmoidLoss(), batch_of(list(range(8)))
    left = candidates_left(batch, loss.exclude)
    found = []
    for bias in torch.linspace(-4, 0, 401):
        loss.logit_bias.data.fill_(float(bias))
        found.append(float(loss(orthogonal(8), batch)))
    assert constant_guess(loss, left) == pytest.approx(min(found), abs=1e-4)
    assert constant_guess(loss, torch.ones(3)) == 0.0
    assert constant_guess(InfoNCE(), left) == chance(InfoNCE(), left)


def warnings_of(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_a_healthy_run_is_not_warned_of(tiny, capsys, loss):
    train(tiny(f"loss={loss}", "data.test=null"))
    assert warnings_of(capsys) == []


def test_a_scale_too_high_is_said_once_with_numbers_and_stands_in_the_report(tiny, capsys):
    train(tiny("loss.temperature=0.0005"))
    (said,) = warnings_of(capsys)
    first, expected = map(
        float, re.search(r"the first loss is ([\d.]+), chance is ([\d.]+) \(8\.0 of 8", said).groups()
    )
    assert first > 1.5 * expected and expected == pytest.approx(2.079, abs=1e-3)
    assert "logit scale 2000.0). Likely causes: a scale too high" in said
    assert "the first loss is" in (tiny.run_dir / "report" / "index.html").read_text()


def test_exclusions_that_leave_nothing_are_said(tiny, tmp_path, capsys):
    clips = make_clips(tmp_path / "alike", 8)
    for clip in clips:
        clip.labels[:] = ["note"]
    write_shards(clips, tmp_path / "one_label", codec="flac")
    train(tiny(f"data.train=[{tmp_path / 'one_label'}]", "loss.exclude=[caption,label]", "data.test=null"))
    (said,) = warnings_of(capsys)
    assert "almost nothing to compare: 1.0 of 8 candidates are left for a clip, loss.exclude=[caption,label]" in said


def test_a_run_that_does_not_learn_is_said_once(tiny, tmp_path, capsys):
    stuck = ["watch.stuck_steps=4", "data.test=null", "optimizer.lr=0", "checkpoint.every_n_epochs=10"]
    train(tiny(*stuck, "trainer.max_epochs=5", f"run_dir={tmp_path / 'a'}"))
    (said,) = warnings_of(capsys)
    assert "after 6 steps the loss is" in said and "(it is 0 now)" in said and "look at nothing reach 2.079" in said
    train(tiny(*stuck, "trainer.max_epochs=2", f"run_dir={tmp_path / 'b'}"))
    assert warnings_of(capsys) == []  # too short to tell


@pytest.mark.parametrize(("last", "warned"), [(0.95, 1), (0.85, 0), (float("nan"), 0)])
def test_the_second_half_of_the_steps_after_the_warm_up_is_what_counts(last, warned):
    """The first six of ten steps, two of them warm-up, are at chance; one of the others is no number."""
    watch = CompareWithChance(0.5, 8, 0.1, True, warmup_steps=2)
    task, trainer, batch = toy_task(InfoNCE()), toy_trainer(), batch_of(list(range(8)))
    for step in range(20):
        watch.on_train_batch_start(trainer, task, batch, step)
        trainer.global_step += 1
        share = float("nan") if step == 8 else last if 6 <= step < 10 else 1.0
        watch.on_train_batch_end(trainer, task, {"loss": torch.tensor(share * 2.0794)}, batch, step)
    assert len(watch.remarks) == warned


@pytest.mark.parametrize(("fresh", "warned"), [(True, 1), (False, 0)])
def test_a_low_first_loss_is_odd_for_fresh_towers_only(fresh, warned):
    watch = CompareWithChance(0.5, None, 0.1, fresh)
    task, trainer = toy_task(InfoNCE()), toy_trainer()
    batch = batch_of(list(range(8)))
    watch.on_train_batch_start(trainer, task, batch, 0)
    watch.on_train_batch_end(trainer, task, {"loss": torch.tensor(0.9)}, batch, 0)
    assert len(watch.remarks) == warned
    watch.on_train_batch_end(trainer, task, {"loss": torch.tensor(99.0)}, batch, 1)
    assert len(watch.remarks) == warned  # it is the first loss that is looked at


def toy_task(loss):
    return SimpleNamespace(loss=loss, model=torch.nn.ModuleDict({"audio": torch.nn.Linear(2, 2)}))


def toy_optimizer():
    return SimpleNamespace(param_groups=[{"lr": 1e-3}, {"lr": 1e-3}])


def toy_trainer():
    return SimpleNamespace(
        world_size=1, global_step=0, is_global_zero=True, accumulate_grad_batches=1, optimizers=[toy_optimizer()]
    )


def test_a_resumed_run_has_no_first_loss():
    watch, trainer = CompareWithChance(0.5, None, 0.1, True), toy_trainer()
    trainer.global_step = 7
    batch = batch_of(list(range(8)))
    watch.on_train_batch_start(trainer, toy_task(InfoNCE()), batch, 0)
    watch.on_train_batch_end(trainer, toy_task(InfoNCE()), {"loss": torch.tensor(99.0)}, batch, 0)
    assert watch.remarks == []


def test_what_is_odd_about_a_batch_is_named(tiny):
    model = build(tiny().model)
    batch = batch_of([1, 1, 1, 1, 2, 2])
    batch.samples = [None] * 6
    batch.waveform = torch.full((6, 50), -32768, dtype=torch.int16)  # the one value without an int16 of the other sign
    task = SimpleNamespace(model=model)
    assert oddities(task, batch) == ["only 2 of 6 captions in the batch are different ones"]
    batch.waveform[:2] = 1
    model.text.requires_grad_(False)
    assert oddities(task, batch)[1:] == ["2 of 6 clips are silent", "frozen: text"]
    assert oddities(task, without_repeats(batch)) == ["2 of 6 clips are silent", "frozen: text"]


def without_repeats(batch):
    batch.caption_id = torch.arange(6)
    return batch


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("watch.initial_loss=0", r"watch\.initial_loss is 0; allowed: a share above 0"),
        ("watch.stuck_loss=x", r"watch\.stuck_loss is 'x'; allowed"),
        ("watch.stuck_steps=0", r"watch\.stuck_steps is 0; allowed: null, or a whole number"),
        ("watch.non_finite=ignore", r"watch\.non_finite is 'ignore'; allowed: stop, skip"),
        ("watch.most_skips=-1", r"watch\.most_skips is -1; allowed"),
    ],
)
def test_wrong_values_are_refused(tiny, override, message):
    with pytest.raises(UsageError, match=message):
        train(tiny(override))
