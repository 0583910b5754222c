"""A batch in parts: the gradients of the whole one, or of a slow two-pass version where chance plays a role."""

import subprocess
import sys

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.checkpoint import set_checkpoint_early_stop

from atr.errors import UsageError
from atr.experiment import build_data, check_values, train
from atr.losses import InfoNCE
from atr.models.clap import Clap
from atr.shards.write import write_shards
from atr.tasks.parts import encode_in_parts
from atr.types import Batch, Embeddings
from tests.conftest import TINY, make_clips
from tests.memory import memory_of

CALM = ["model.audio.drop_path=0", "model.audio.spec_augment=null", "++model.text.config.hidden_dropout_prob=0",
        "++model.text.config.attention_probs_dropout_prob=0"]  # fmt: skip
CHANCE = ["model.audio.drop_path=0.3"]


@pytest.fixture
def setup(tiny, tmp_path):
    """A model and a batch of 32 clips with masked words and augmented sound; captions come twice."""
    write_shards(make_clips(tmp_path / "more", 32), tmp_path / "shards32", codec="wav")
    tiny.shards = tmp_path / "shards32"

    def setup(*overrides: str) -> tuple[Clap, Batch]:
        torch.manual_seed(0)
        cfg = tiny("data.batch_size=32", "augment=demo", "masking=words", *overrides)
        model = instantiate(cfg.model)
        batch = next(iter(build_data(cfg, model).train_dataloader()))
        assert len(batch.waveform) == 32 and (batch.input_ids == model.text.tokenizer.inner.mask_token_id).any()
        return model.train(), batch

    return setup


def gradients(model: Clap, loss: InfoNCE) -> dict[str, Tensor]:
    named = {**dict(model.named_parameters()), **dict(loss.named_parameters())}
    missing = [name for name, parameter in named.items() if parameter.grad is None]
    assert not missing
    found = {name: parameter.grad.clone() for name, parameter in named.items() if parameter.grad is not None}
    model.zero_grad(), loss.zero_grad()
    return found


def furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def test_any_number_of_parts_gives_the_same_gradients(setup):
    """1 x 32 = 2 x 16 = 4 x 8 = 8 x 4, and parts that do not divide it, without chance in the model."""
    model, batch = setup(*CALM)
    model.audio.mel_norm.eval()
    loss = InfoNCE()
    loss(model(batch), batch).backward()
    whole = gradients(model, loss)
    assert max(float(value.abs().max()) for value in whole.values()) > 0.1
    for size in (32, 16, 8, 4, 5):
        loss(encode_in_parts(model, batch, size), batch).backward()
        assert furthest(gradients(model, loss), whole) < 1e-5, size
    for part in range(0, 32, 16):  # the control: gradients of smaller batches, as plain accumulation would have it
        half = Batch(**{n: v[part : part + 16] if isinstance(v, Tensor) else v for n, v in vars(batch).items()})
        (loss(model(half), half) / 2).backward()
    assert furthest(gradients(model, loss), whole) > 1e-3


def slow_parts(model: Clap, loss: InfoNCE, batch: Batch, size: int, replay: bool = True) -> dict[str, Tensor]:
    """GradCache, word for word: all embeddings, the loss's gradients with respect to them, then part by part."""
    parts = [(batch.waveform[at : at + size], batch.input_ids[at : at + size], batch.attention_mask[at : at + size])
             for at in range(0, len(batch.waveform), size)]  # fmt: skip
    states, found = [], []
    for waveform, tokens, mask in parts:
        states.append(torch.get_rng_state())
        with torch.no_grad():
            found.append((model.encode_audio(waveform), model.encode_text(tokens, mask)))
    audio, text = (torch.cat(side).requires_grad_() for side in zip(*found, strict=True))
    loss(Embeddings(audio, text), batch).backward()
    assert audio.grad is not None and text.grad is not None
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    grads = zip(audio.grad.split(size), text.grad.split(size), strict=True)
    for state, (waveform, tokens, mask), (of_audio, of_text) in zip(states, parts, grads, strict=True):
        if replay:
            torch.set_rng_state(state)
        again = torch.cat([model.encode_audio(waveform), model.encode_text(tokens, mask)])
        again.backward(torch.cat([of_audio, of_text]))
    for name, value in model.named_buffers():
        value.copy_(statistics[name])
    return gradients(model, loss)


@pytest.mark.parametrize("bf16", [False, True])
def test_both_passes_over_a_part_meet_the_same_chance(setup, bf16):
    model, batch = setup(*CHANCE)
    norm, seen = model.audio.mel_norm, []
    model.register_forward_hook(lambda _, inputs, output: seen.append((output.audio.detach(), output.text.detach())))
    with set_checkpoint_early_stop(False):  # which would end the second pass before its end
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = InfoNCE()(encode_in_parts(model, batch, 10), batch)
        after_forward = {name: value.clone() for name, value in norm.state_dict().items()}
        loss.backward()
    assert len(seen) == 8  # the last part first on the way back
    for (audio, text), (audio_again, text_again) in zip(seen[:4], seen[:3:-1], strict=True):
        assert torch.equal(audio, audio_again) and torch.equal(text, text_again)
    assert int(norm.num_batches_tracked) == 4
    assert all(torch.equal(value, after_forward[name]) for name, value in norm.state_dict().items())


def test_with_chance_the_gradients_are_those_of_the_slow_version(setup):
    model, batch = setup(*CHANCE)
    loss = InfoNCE()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def run(slow: bool, **more: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        model.load_state_dict(before)
        torch.manual_seed(5)
        if slow:
            found = slow_parts(model, loss, batch, 10, **more)
        else:
            loss(encode_in_parts(model, batch, 10), batch).backward()
            found = gradients(model, loss)
        return found, {name: value.clone() for name, value in model.named_buffers()}

    (fast, buffers), (slow, slow_buffers) = run(slow=False), run(slow=True)
    assert furthest(fast, slow) < 1e-5
    assert all(torch.equal(value, slow_buffers[name]) for name, value in buffers.items())
    assert furthest(run(slow=True, replay=False)[0], slow) > 1e-3  # the control: other chance in the second pass


def test_memory_falls_with_the_parts(setup):
    """Of a part of 4: well under half of the whole, forward and backward, the embeddings' loss included."""
    model, batch = setup()

    def step(size: int | None) -> None:
        InfoNCE()(encode_in_parts(model, batch, size), batch).backward()

    step(None)  # gradients and buffers that stay
    peaks = [memory_of(lambda size=size: step(size))[0] for size in (None, 16, 4)]
    assert peaks[1] < 0.75 * peaks[0] and peaks[2] < 0.35 * peaks[0]


def test_a_size_that_holds_the_batch_is_the_plain_way(setup, monkeypatch):
    model, batch = setup(*CALM)
    monkeypatch.setattr("atr.tasks.parts.checkpoint", None)
    whole = model(batch)
    for size in (None, 32, 100):
        found = encode_in_parts(model, batch, size)
        assert torch.equal(found.audio, whole.audio) and torch.equal(found.text, whole.text)
    with pytest.raises(TypeError):
        encode_in_parts(model, batch, 31)


def one_rank(rank: int, world: int, folder: str) -> None:
    """A process of the test below: DDP around model and loss."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    content = torch.load(f"{folder}/start.pt", weights_only=False)
    model, batch = content["model"], content["batch"]
    half = len(batch.waveform) // world
    own = slice(rank * half, rank * half + half)
    part = Batch(**{name: v[own] if isinstance(v, Tensor) else v for name, v in vars(batch).items()})
    results = {}
    for size in (None, 5):
        step = torch.nn.parallel.DistributedDataParallel(Step(model, size))
        step(part).backward()
        results[size] = gradients(model, step.module.loss)
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


class Step(torch.nn.Module):
    """Model and loss as one module, as Lightning's DDP has them."""

    def __init__(self, model: Clap, size: int | None) -> None:
        super().__init__()
        self.model, self.loss, self.size = model, InfoNCE(), size

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(encode_in_parts(self.model, batch, self.size), batch)


def test_two_processes_in_parts_give_the_gradients_of_the_whole_batch(setup, tmp_path):
    """Of one process without parts, the mel norm's statistics frozen."""
    model, batch = setup(*CALM)
    model.audio.mel_norm.eval()
    torch.save({"model": model, "batch": batch}, tmp_path / "start.pt")
    torch.multiprocessing.spawn(one_rank, args=(2, str(tmp_path)), nprocs=2)
    step = Step(model, None)
    step(batch).backward()
    whole = gradients(model, step.loss)
    for rank in range(2):
        for size, found in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            assert furthest(found, whole) < 1e-5, size


@pytest.mark.slow
def test_lightning_trains_two_processes_in_parts_and_blocks(tiny, tmp_path):
    """DDP stops at the second step when a parameter got no gradient in the first."""
    overrides = [*TINY, f"run_dir={tmp_path}/run", f"data.train=[{tiny.shards}]", "data.test=[]", "data.batch_size=8",
                 "data.num_workers=0", "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.devices=2",
                 "trainer.strategy=ddp", "trainer.precision=32-true", "schedule.warmup_steps=2", "augment=none",
                 "evaluation.monitor=null", "micro_batch=3", "loss.chunk=3"]  # fmt: skip
    command = [sys.executable, "-m", "atr", "train", *overrides]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert int(state["model.audio.mel_norm.num_batches_tracked"]) == 2 * 2 * 2  # two epochs of two steps of two parts


@pytest.mark.parametrize("value", ["0", "-2", "1.5", "half"])
def test_a_part_of_no_clips_is_refused(tiny, value):
    with pytest.raises(UsageError, match=r"micro_batch is .*; allowed: null, or a whole number from 1 on"):
        train(tiny(f"micro_batch={value}"))


def test_plain_accumulation_is_refused_and_one_is_none(tiny):
    with pytest.raises(UsageError, match=r"accumulate_grad_batches=2 .* fewer negatives.* set micro_batch"):
        train(tiny("+trainer.accumulate_grad_batches=2"))
    check_values(tiny("+trainer.accumulate_grad_batches=1"))
