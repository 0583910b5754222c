"""The losses against hand-made numbers and slow references that stand here."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atr.losses import InfoNCE, SigmoidLoss, info_nce, same_pairs, sigmoid_loss
from atr.types import Batch, Embeddings


def unit(rows: int, width: int = 8, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def batch_of(caption: list[int], clip: list[int] | None = None, label: list[int] | None = None) -> Batch:
    rows = len(caption)
    distinct = torch.arange(rows)
    return Batch(
        waveform=torch.zeros(rows, 1), input_ids=torch.zeros(rows, 1), attention_mask=torch.zeros(rows, 1),
        clip_id=torch.tensor(clip) if clip else distinct + 100, source_id=distinct + 200,
        label_id=torch.tensor(label) if label else distinct + 300, corpus_id=distinct * 0,
        caption_id=torch.tensor(caption), samples=[],
        clipped=0, bad=[],
    )  # fmt: skip


def slow_info_nce(audio: Tensor, text: Tensor, scale: float, excluded: Tensor) -> Tensor:
    total = torch.zeros(())
    for i in range(len(audio)):
        own = scale * audio[i] @ text[i]
        row = [scale * audio[i] @ text[j] for j in range(len(text)) if not excluded[i, j]]
        column = [scale * audio[j] @ text[i] for j in range(len(audio)) if not excluded[j, i]]
        total = total - (own - torch.logsumexp(torch.stack(row), 0)) / 2
        total = total - (own - torch.logsumexp(torch.stack(column), 0)) / 2
    return total / len(audio)


def slow_sigmoid(audio: Tensor, text: Tensor, scale: float, bias: float, excluded: Tensor) -> Tensor:
    total = torch.zeros(())
    for i in range(len(audio)):
        for j in range(len(text)):
            if not excluded[i, j]:
                sign = 1.0 if i == j else -1.0
                total = total + torch.log1p(torch.exp(-sign * (scale * audio[i] @ text[j] + bias)))
    return total / len(audio)


def test_two_by_two_has_its_closed_form():
    audio = torch.eye(2)
    loss = info_nce(audio, audio, torch.tensor(math.log(3.0)), torch.zeros(2, 2, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3.0)), abs=1e-6)
    crossed = info_nce(audio, audio.flip(0), torch.tensor(math.log(3.0)), torch.zeros(2, 2, dtype=torch.bool))
    assert crossed.item() == pytest.approx(math.log(1 + math.exp(3.0)), abs=1e-6)


@pytest.mark.parametrize("duplicates", [False, True])
def test_info_nce_equals_the_slow_reference_in_value_and_gradient(duplicates):
    excluded = torch.zeros(7, 7, dtype=torch.bool)
    if duplicates:
        excluded[1, 4] = excluded[4, 1] = excluded[2, 6] = True
    audio, text = unit(7, seed=1).requires_grad_(), unit(7, seed=2).requires_grad_()
    fast = info_nce(audio, text, torch.tensor(math.log(9.0)), excluded)
    gradients = torch.autograd.grad(fast, [audio, text])
    slow = slow_info_nce(audio, text, 9.0, excluded)
    torch.testing.assert_close(fast, slow, atol=2e-6, rtol=0)
    for one, other in zip(gradients, torch.autograd.grad(slow, [audio, text]), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


def test_sigmoid_loss_equals_the_slow_reference_in_value_and_gradient():
    excluded = torch.zeros(6, 6, dtype=torch.bool)
    excluded[0, 3] = excluded[3, 0] = True
    audio, text = unit(6, seed=3).requires_grad_(), unit(6, seed=4).requires_grad_()
    fast = sigmoid_loss(audio, text, torch.tensor(math.log(5.0)), torch.tensor(-2.0), excluded)
    gradients = torch.autograd.grad(fast, [audio, text])
    slow = slow_sigmoid(audio, text, 5.0, -2.0, excluded)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)
    for one, other in zip(gradients, torch.autograd.grad(slow, [audio, text]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_both_directions_contribute():
    """Clips 0 and 1 are alike, captions are not: audio -> text then is easy, text -> audio is not."""
    audio = F.normalize(torch.tensor([[1.0, 0.01], [1.0, -0.01]]), dim=1)
    text = torch.eye(2)
    none = torch.zeros(2, 2, dtype=torch.bool)
    scale = torch.tensor(math.log(10.0))
    symmetric = info_nce(audio, text, scale, none)
    target, logits = torch.arange(2), 10.0 * audio @ text.T
    to_text, to_audio = F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)
    assert abs(to_text - to_audio) > 0.5
    torch.testing.assert_close(symmetric, (to_text + to_audio) / 2)


@pytest.mark.parametrize("loss", [InfoNCE(), SigmoidLoss()])
def test_permuted_pairs_score_worse(loss):
    pairs = unit(8)
    batch = batch_of(list(range(8)))
    right = loss(Embeddings(pairs, pairs), batch)
    assert loss(Embeddings(pairs, pairs.roll(1, dims=0)), batch) > right + 1.0


@pytest.mark.parametrize("loss", [InfoNCE(exclude=["caption"]), SigmoidLoss(exclude=["caption"])])
def test_a_duplicate_caption_gets_no_negative_gradient(loss):
    """Clips 0 and 1 have the same caption: clip 0 must not be pushed from caption 1. The control does push."""

    def push(exclude: list[str]) -> float:
        """Gradient with respect to the cosine of clip 0 and caption 1: text j's gradient is sum_i c_ij audio_i."""
        loss.exclude = tuple(exclude)
        audio, text = unit(3, seed=5), unit(3, seed=6).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(Embeddings(audio, text), batch_of([7, 7, 8])), [text])
        return float(torch.linalg.lstsq(audio.T, gradient.T).solution[0, 1])

    assert push(["caption"]) == pytest.approx(0.0, abs=1e-5)
    assert push([]) > 1e-3  # pushed away: the loss grows with the cosine


def test_the_diagonal_stays_and_each_property_counts():
    batch = batch_of([1, 1, 2], clip=[5, 6, 6], label=[9, 8, 9])
    assert same_pairs(batch, []).sum() == 0
    assert same_pairs(batch, ["caption"]).tolist() == [[False, True, False], [True, False, False], [False] * 3]
    assert same_pairs(batch, ["clip"])[1, 2] and not same_pairs(batch, ["clip"])[0, 1]
    assert same_pairs(batch, ["label"])[0, 2]
    assert not same_pairs(batch, ["caption", "clip", "label"]).diagonal().any()


def test_all_captions_equal_leaves_a_finite_loss_without_gradient():
    audio = unit(4).requires_grad_()
    loss = InfoNCE()(Embeddings(audio, unit(4, seed=1)), batch_of([1, 1, 1, 1]))
    loss.backward()
    assert loss.item() == 0.0
    assert audio.grad is not None and audio.grad.abs().max() == 0.0


def test_initial_values_and_the_clamp():
    loss, sigmoid = InfoNCE(), SigmoidLoss()
    assert loss.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert (sigmoid.logit_scale.exp().item(), sigmoid.logit_bias.item()) == pytest.approx((10.0, -10.0))
    loss.logit_scale.data.fill_(9.0)
    loss.clamp()
    assert loss.logit_scale.item() == pytest.approx(math.log(100.0))
    loss.logit_scale.data.fill_(-1.0)
    loss.clamp()
    assert loss.logit_scale.item() == 0.0


def test_the_loss_is_float32_under_autocast():
    embeddings = Embeddings(unit(16, 64), unit(16, 64, seed=1))
    batch = batch_of(list(range(16)))
    plain = InfoNCE()(embeddings, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = InfoNCE()(embeddings, batch)
    assert mixed.dtype == torch.float32
    assert mixed.item() == plain.item()


def one_rank(rank: int, world: int, folder: str) -> None:
    """A process of the test below: its rows of the batch, its gradients into a file."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    rows = slice(rank * 4, rank * 4 + 4)
    audio, text = (unit(8, seed=seed)[rows].clone().requires_grad_() for seed in (1, 2))
    whole = batch_of([0, 1, 2, 3, 1, 5, 6, 7])
    batch = batch_of([0, 0, 0, 0])
    for name in ("caption_id", "clip_id", "source_id", "label_id"):
        setattr(batch, name, getattr(whole, name)[rows])
    results = {}
    for loss in (InfoNCE(), SigmoidLoss()):
        value = loss(Embeddings(audio, text), batch)
        gradients = torch.autograd.grad(value, [audio, text, loss.logit_scale])
        results[type(loss).__name__] = [value.detach(), *gradients]
    torch.save(results, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_give_the_loss_and_gradient_of_the_whole_batch(tmp_path):
    """Captions 1 and 4 are equal and lie on different ranks: the exclusion is that of the global batch, too."""
    torch.multiprocessing.spawn(one_rank, args=(2, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for loss in (InfoNCE(), SigmoidLoss()):
        audio, text = (unit(8, seed=seed).requires_grad_() for seed in (1, 2))
        value = loss(Embeddings(audio, text), batch_of([0, 1, 2, 3, 1, 5, 6, 7]))
        expected = torch.autograd.grad(value, [audio, text, loss.logit_scale])
        parts = [rank[type(loss).__name__] for rank in ranks]
        for value_of_rank, *_, scale in parts:
            torch.testing.assert_close(value_of_rank, value.detach(), atol=1e-6, rtol=0)
            torch.testing.assert_close(scale, expected[2], atol=1e-5, rtol=0)
        for side in (0, 1):  # DDP takes the mean over the ranks: a rank's rows carry the sum, so half of it is right
            rows = torch.cat([part[1 + side] for part in parts]) / 2
            torch.testing.assert_close(rows, expected[side], atol=1e-6, rtol=0)


def test_rows_are_the_parts_of_the_loss():
    audio, text = unit(6, seed=1), unit(6, seed=2)
    batch = batch_of(caption=[1, 2, 3, 1, 5, 6], clip=[1, 2, 3, 4, 2, 6])
    for loss in (InfoNCE(), SigmoidLoss()):
        rows = loss.rows(Embeddings(audio, text), batch)
        assert rows.loss.shape == (6,) and not rows.loss.requires_grad
        torch.testing.assert_close(rows.loss.mean(), loss(Embeddings(audio, text), batch).detach())


def test_recall_within_a_batch_leaves_out_pairs_that_are_no_negatives():
    audio = torch.eye(3)
    text = torch.eye(3)[[1, 1, 2]]  # the first caption lies at the second clip
    plain = InfoNCE(exclude=[]).rows(Embeddings(audio, text), batch_of(caption=[1, 1, 3]))
    assert plain.t2a.tolist() == [False, True, True] and plain.a2t.tolist() == [True, False, True]
    fair = InfoNCE(exclude=["caption"]).rows(Embeddings(audio, text), batch_of(caption=[1, 1, 3]))
    assert fair.t2a.tolist() == [True, True, True] and fair.a2t.tolist() == [True, True, True]
