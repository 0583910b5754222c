"""Parameter groups by name, and the schedule's course."""

import pytest
import torch

from atr.models.htsat import HTSAT
from atr.optim import WarmupCosine, parameter_groups, warmup_cosine


def test_vectors_and_position_tables_are_not_decayed():
    model = HTSAT(n_mels=32, picture_size=64, embed_dim=16, depths=(1, 1), heads=(1, 2))
    decayed, kept = parameter_groups(model)
    names = {id(p): n for n, p in model.named_parameters()}
    assert all("bias" not in names[id(p)].rsplit(".", 1)[-1] and "norm" not in names[id(p)] for p in decayed["params"])
    kept_names = {names[id(p)] for p in kept["params"]}
    assert "mel_norm.weight" in kept_names and "layers.0.blocks.0.attn.relative_position_bias_table" in kept_names
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    assert kept["weight_decay"] == 0.0 and "weight_decay" not in decayed


def test_frozen_parameters_are_left_out():
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(layer)] == [1, 0]


def test_warmup_then_cosine():
    assert [warmup_cosine(step, 4, 10) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert warmup_cosine(4, 4, 10) == 1.0
    assert warmup_cosine(7, 4, 10) == pytest.approx(0.5)
    assert warmup_cosine(10, 4, 10) == pytest.approx(0.0, abs=1e-12)
    assert warmup_cosine(0, 0, 10) == 1.0  # no warm-up


def test_the_schedule_moves_the_learning_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(2)(optimizer, 4)
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([1.0, 2.0, 2.0, 1.0])
