"""The losses against hand-made numbers and slow references that stand here."""

import math
import statistics
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atr.config import build, compose_config
from atr.errors import UsageError
from atr.losses import InfoNCE, SigmoidLoss, ids_of, info_nce, same_pairs, sigmoid_loss
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

    def same(*by: str) -> Tensor:
        ids = ids_of(batch, by)
        whole = same_pairs(ids, ids)
        for first in range(3):  # a part of the clips beside all captions is that part of it
            assert torch.equal(same_pairs(ids[:, first:], ids, first), whole[first:])
        return whole

    assert same().sum() == 0
    assert same("caption").tolist() == [[False, True, False], [True, False, False], [False] * 3]
    assert same("clip")[1, 2] and not same("clip")[0, 1]
    assert same("label")[0, 2]
    assert not same("caption", "clip", "label").diagonal().any()


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


LOSSES = [InfoNCE, SigmoidLoss]
CAPTIONS = [0, 1, 2, 3, 1, 5, 6, 7, 7, 9, 1, 0]  # equal ones within a rank and on several, of two as of three ranks


def value_and_gradients(loss: InfoNCE | SigmoidLoss, audio: Tensor, text: Tensor, batch: Batch) -> list[Tensor]:
    """The loss, its gradients with respect to both sides and to the loss's own scale and bias."""
    value = loss(Embeddings(audio, text), batch)
    return [value.detach(), *torch.autograd.grad(value, [audio, text, *loss.parameters()])]


@pytest.mark.parametrize("chunk", [1, 8, 37, 50])
@pytest.mark.parametrize("kind", LOSSES)
def test_in_blocks_it_is_the_same_loss(kind, chunk):
    """The last block is ragged; clips 0, 20 and 36 share a caption, 3 and 4 a clip."""
    caption = [7 if row in (0, 20, 36) else 100 + row for row in range(37)]
    batch = batch_of(caption, clip=[3 if row == 4 else row for row in range(37)])
    audio, text = unit(37, 16, seed=1).requires_grad_(), unit(37, 16, seed=2).requires_grad_()
    plain = value_and_gradients(kind(), audio, text, batch)
    for one, other in zip(plain, value_and_gradients(kind(chunk=chunk), audio, text, batch), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 if one.ndim == 0 else 1e-6, rtol=0)
    control = value_and_gradients(kind(exclude=["clip"], chunk=chunk), audio, text, batch)
    assert abs(control[0] - plain[0]) > 1e-6 and (control[1] - plain[1]).abs().max() > 1e-5
    rows, rows_in_blocks = (kind(chunk=size).rows(Embeddings(audio, text), batch) for size in (None, chunk))
    torch.testing.assert_close(rows.loss, rows_in_blocks.loss, atol=1e-5, rtol=0)
    assert torch.equal(rows.t2a, rows_in_blocks.t2a) and torch.equal(rows.a2t, rows_in_blocks.a2t)


@pytest.mark.parametrize("kind", LOSSES)
def test_blocks_without_a_candidate_left_have_a_gradient(kind):
    """All captions are equal: nothing is compared, and nothing becomes NaN on the way back."""
    audio, text = unit(6, seed=1).requires_grad_(), unit(6, seed=2).requires_grad_()
    plain = value_and_gradients(kind(), audio, text, batch_of([1] * 6))
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        blocks = value_and_gradients(kind(chunk=2), audio, text, batch_of([1] * 6))
    for one, other in zip(blocks, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def saved_bytes(loss: InfoNCE | SigmoidLoss, embeddings: Embeddings, batch: Batch) -> int:
    """What is held between forward and backward, the embeddings included."""
    saved = {side.untyped_storage().data_ptr(): side.untyped_storage() for side in vars(embeddings).values()}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(embeddings, batch)
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize("rows", [2048, pytest.param(16_384, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", LOSSES)
def test_blocks_hold_a_tenth_at_most_and_take_no_more_than_half_as_long_again(kind, rows):
    """At width 512 and 16 384 clips; fewer clips at a smaller width, where the clock says nothing."""
    width = 512 if rows == 16_384 else 64
    embeddings = Embeddings(unit(rows, width, 1).requires_grad_(), unit(rows, width, 2).requires_grad_())
    batch = batch_of(list(range(rows)))
    plain, blocks = kind(), kind(chunk=rows // 16)
    assert saved_bytes(blocks, embeddings, batch) <= saved_bytes(plain, embeddings, batch) / 10
    if rows == 16_384:
        seconds: dict[object, list[float]] = {plain: [], blocks: []}
        for _ in range(3):
            for loss, times in seconds.items():
                began = time.perf_counter()
                loss(embeddings, batch).backward()
                times.append(time.perf_counter() - began)
        assert statistics.median(seconds[blocks]) <= 1.5 * statistics.median(seconds[plain])


@pytest.mark.parametrize("chunk", [0, -1, 0.5, "all"])
def test_a_block_of_no_clips_is_refused(chunk):
    with pytest.raises(UsageError, match=r"loss.chunk is .*; allowed: null, or a whole number from 1 on"):
        build(compose_config([f"loss.chunk={chunk}"]).loss)


def one_rank(rank: int, world: int, folder: str) -> None:
    """A process of the test below: its rows of the batch, its gradients and rows into a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    size = len(CAPTIONS) // world
    own = slice(rank * size, rank * size + size)
    audio, text = (unit(len(CAPTIONS), seed=seed)[own].clone().requires_grad_() for seed in (1, 2))
    batch, whole = batch_of([0] * size), batch_of(CAPTIONS)
    for name in ("caption_id", "clip_id", "source_id", "label_id"):
        setattr(batch, name, getattr(whole, name)[own])
    results: dict[str, list[Tensor]] = {}
    for kind in LOSSES:
        for chunk in (None, 2 if size == 4 else 4):  # the last block of six is ragged
            loss = kind(chunk=chunk)
            results[f"{kind.__name__} {chunk is None}"] = value_and_gradients(loss, audio, text, batch)
            results[f"{kind.__name__} {chunk is None} rows"] = list(loss.rows(Embeddings(audio, text), batch))
        alike = replace(batch, caption_id=batch.caption_id + 1000 * rank)  # equal captions count on one rank only
        results[f"{kind.__name__} control"] = value_and_gradients(kind(), audio, text, alike)
        nothing = replace(batch, caption_id=batch.caption_id * 0)
        results[f"{kind.__name__} nothing"] = value_and_gradients(kind(), audio, text, nothing)
    torch.save(results, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def of_ranks(ranks: list[dict[str, list[Tensor]]], name: str) -> list[Tensor]:
    """One process's view: the loss, each rank's rows side by side, and the mean over the ranks, as DDP takes it."""
    values, audio, text, *own = zip(*(rank[name] for rank in ranks), strict=True)
    assert all(torch.equal(value, values[0]) for value in values)
    rows = [torch.cat(side) / len(ranks) for side in (audio, text)]
    return [values[0], *rows, *(torch.stack(part).mean(0) for part in own)]


@pytest.mark.parametrize("world", [2, 3])
def test_several_ranks_give_the_loss_and_gradient_of_the_whole_batch(tmp_path, world):
    """Equal captions lie on different ranks, and leaving them out on each rank alone gives other numbers."""
    torch.multiprocessing.spawn(one_rank, args=(world, str(tmp_path)), nprocs=world)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(world)]
    for kind in LOSSES:
        audio, text = (unit(len(CAPTIONS), seed=seed).requires_grad_() for seed in (1, 2))
        expected = value_and_gradients(kind(), audio, text, batch_of(CAPTIONS))
        for plain in (True, False):
            for one, other in zip(of_ranks(ranks, f"{kind.__name__} {plain}"), expected, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5 if one.ndim == 0 else 1e-6, rtol=0)
            rows = kind().rows(Embeddings(audio, text), batch_of(CAPTIONS))
            for rank in ranks:
                for one, other in zip(rank[f"{kind.__name__} {plain} rows"], rows, strict=True):
                    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
        for one, other in zip(of_ranks(ranks, f"{kind.__name__} control"), expected, strict=True):
            assert (one - other).abs().max() > 1e-5
        nothing = value_and_gradients(kind(), audio, text, batch_of([0] * len(CAPTIONS)))
        for one, other in zip(of_ranks(ranks, f"{kind.__name__} nothing"), nothing, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5 if one.ndim == 0 else 1e-6, rtol=0)


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
