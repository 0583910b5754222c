"""Parameter groups by name, optimizers by name, and the schedule's course."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from atr.config import build, compose_config
from atr.errors import UsageError
from atr.models.htsat import HTSAT
from atr.optim import Groups, WarmupCosine, layer_depths, timm_optimizer, warmup_cosine

SMALL = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip

# A one-block and a two-block stage, as (layer, decayed, names); a stage's downsampling is part of its first block.
BLOCK = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
BLOCK_SPARED = (
    "norm1.weight", "norm1.bias", "attn.relative_position_bias_table", "attn.qkv.bias", "attn.proj.bias",
    "norm2.weight", "norm2.bias", "mlp.fc1.bias", "mlp.fc2.bias",
)  # fmt: skip
AUDIO = [
    (0, True, ["patch_embed.weight"]),
    (0, False, ["mel_norm.weight", "mel_norm.bias", "patch_embed.bias", "patch_norm.weight", "patch_norm.bias"]),
    (1, True, [f"layers.0.blocks.0.{n}" for n in BLOCK]),
    (1, False, [f"layers.0.blocks.0.{n}" for n in BLOCK_SPARED]),
    (2, True, ["layers.1.downsample.reduction.weight", *(f"layers.1.blocks.0.{n}" for n in BLOCK)]),
    (2, False, ["layers.1.downsample.norm.weight", "layers.1.downsample.norm.bias",
                *(f"layers.1.blocks.0.{n}" for n in BLOCK_SPARED)]),
    (3, True, [f"layers.1.blocks.1.{n}" for n in BLOCK]),
    (3, False, [*(f"layers.1.blocks.1.{n}" for n in BLOCK_SPARED), "norm.weight", "norm.bias"]),
]  # fmt: skip
LAYER = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
         "intermediate.dense", "output.dense")  # fmt: skip
NORMS = ("attention.output.LayerNorm.weight", "attention.output.LayerNorm.bias", "output.LayerNorm.weight",
         "output.LayerNorm.bias")  # fmt: skip
TEXT = [
    (0, True, [f"embeddings.{kind}_embeddings.weight" for kind in ("word", "token_type", "position")]),
    (0, False, ["embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"]),
    (1, True, [f"encoder.layer.0.{n}.weight" for n in LAYER]),
    (1, False, [f"encoder.layer.0.{n}" for n in (*(f"{n}.bias" for n in LAYER), *NORMS)]),
    (2, True, [*(f"encoder.layer.1.{n}.weight" for n in LAYER), "pooler.dense.weight"]),
    (2, False, [*(f"encoder.layer.1.{n}" for n in (*(f"{n}.bias" for n in LAYER), *NORMS)), "pooler.dense.bias"]),
]


def two_towers():
    """The parts of a `Clap` by their names, small, and a loss."""
    model = nn.Module()
    model.audio = HTSAT(n_mels=32, picture_size=64, embed_dim=16, depths=(1, 2), heads=(1, 2))
    model.text = nn.Module()
    model.text.inner = AutoModel.from_config(AutoConfig.for_model("roberta", **SMALL))
    model.audio_projection, model.text_projection = nn.Linear(32, 4), nn.Linear(8, 4)
    loss = nn.Module()
    loss.logit_scale, loss.logit_bias = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    return model, loss


def found(groups, model, loss):
    """(lr, weight decay) -> names, of what an optimizer made of the groups."""
    names = {id(p): n for n, p in model.named_parameters()} | {id(p): f"loss.{n}" for n, p in loss.named_parameters()}
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.01)
    keys = [(round(group["lr"], 12), group["weight_decay"]) for group in optimizer.param_groups]
    assert len(set(keys)) == len(keys), "parameters of one lr and weight decay share a group"
    members = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    assert sorted(name for member in members for name in member) == sorted(names.values()), "every parameter once"
    return {key: sorted(member) for key, member in zip(keys, members, strict=True)}


def test_by_default_there_are_two_groups():
    model, loss = two_towers()
    decayed, spared = groups = Groups()(model, loss, lr=0.1)
    assert set(decayed) == {"params"} and set(spared) == {"params", "weight_decay"}  # the lr is the optimizer's own
    ordered = [*model.named_parameters(), *loss.named_parameters()]
    for group in groups:  # the order of the module
        members = {id(p) for p in group["params"]}
        assert [id(p) for p in group["params"]] == [id(p) for _, p in ordered if id(p) in members]
    expected = {
        True: ["audio_projection.weight", "text_projection.weight"],
        False: ["audio_projection.bias", "text_projection.bias", "loss.logit_scale", "loss.logit_bias"],
    }
    for prefix, layers in (("audio.", AUDIO), ("text.inner.", TEXT)):
        for _, decays, names in layers:
            expected[decays] += [prefix + name for name in names]
    assert found(groups, model, loss) == {(0.1, 0.01): sorted(expected[True]), (0.1, 0.0): sorted(expected[False])}


def test_each_layer_has_its_learning_rate():
    model, loss = two_towers()
    groups = Groups(audio_lr=0.5, text_lr=0.2, projection_lr=3.0, layer_decay=0.9)(model, loss, lr=0.1)
    expected = {
        (0.3, 0.01): ["audio_projection.weight", "text_projection.weight"],
        (0.3, 0.0): ["audio_projection.bias", "loss.logit_bias", "loss.logit_scale", "text_projection.bias"],
    }
    for layer, decays, names in AUDIO:  # 0.05 at the top, three layers above the input
        lr = (0.03645, 0.0405, 0.045, 0.05)[layer]
        expected[lr, 0.01 if decays else 0.0] = sorted(f"audio.{name}" for name in names)
    for layer, decays, names in TEXT:
        lr = (0.0162, 0.018, 0.02)[layer]
        expected[lr, 0.01 if decays else 0.0] = sorted(f"text.inner.{name}" for name in names)
    assert found(groups, model, loss) == expected
    assert len(expected) == 2 + 8 + 6


def test_equal_rates_of_two_towers_share_a_group():
    model, loss = two_towers()
    assert len(Groups(audio_lr=0.5, text_lr=0.5)(model, loss, lr=0.1)) == 4


def test_parameters_without_gradient_are_left_out():
    model, loss = two_towers()
    model.text.requires_grad_(False)
    inside = {id(p) for group in Groups(text_lr=0.5)(model, loss, 0.1) for p in group["params"]}
    assert not any(id(p) in inside for p in model.text.parameters())
    assert all(id(p) in inside for p in [*model.audio.parameters(), *loss.parameters()])


def test_feature_fusion_is_of_the_inputs_layer_and_moves_no_other():
    shape = {"n_mels": 16, "picture_size": 32, "embed_dim": 8, "depths": [1, 2], "heads": [1, 2], "window": 4}
    plain, fused = (
        layer_depths([f"audio.{name}" for name, _ in HTSAT(**shape, fusion=fusion).named_parameters()])
        for fusion in (False, True)
    )
    more = fused.keys() - plain.keys()
    assert len(more) == 18 and {fused[name] for name in more} == {0}
    assert {name: fused[name] for name in plain} == plain and max(plain.values()) == 3


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("roberta", {}, {"embeddings.LayerNorm.bias": 0, "encoder.layer.0.output.dense.bias": 1,
                         "encoder.layer.11.output.dense.bias": 12, "pooler.dense.weight": 12}),
        ("distilbert", {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8},
         {"embeddings.word_embeddings.weight": 0, "transformer.layer.0.ffn.lin1.bias": 1,
          "transformer.layer.1.ffn.lin1.bias": 2}),
        ("albert", {"embedding_size": 4},  # its layers share their weights
         {"embeddings.word_embeddings.weight": 0, "encoder.embedding_hidden_mapping_in.weight": 0,
          "encoder.albert_layer_groups.0.albert_layers.0.ffn.weight": 1, "pooler.weight": 1}),
        ("electra", {"embedding_size": 4}, {"embeddings_project.weight": 0, "encoder.layer.1.output.dense.bias": 2}),
        ("deberta-v2", {"relative_attention": True, "position_buckets": 4},
         {"encoder.rel_embeddings.weight": 0, "encoder.layer.1.output.dense.bias": 2}),
        ("modernbert", {"cls_token_id": 1, "sep_token_id": 2},
         {"embeddings.norm.weight": 0, "layers.0.mlp.Wi.weight": 1, "final_norm.weight": 2}),
        ("xlnet", {"d_model": 8, "n_layer": 2, "n_head": 2, "d_inner": 8},
         {"mask_emb": 0, "word_embedding.weight": 0, "layer.0.rel_attn.seg_embed": 1, "layer.1.ff.layer_2.bias": 2}),
    ],
)  # fmt: skip
def test_the_layers_of_other_text_encoders(kind, fields, expected):
    small = SMALL | ({"num_hidden_layers": 12} if kind == "roberta" else {})
    inner = AutoModel.from_config(AutoConfig.for_model(kind, **small | fields))
    depths = layer_depths([f"text.inner.{name}" for name, _ in inner.named_parameters()])
    assert {name: depths[f"text.inner.{name}"] for name in expected} == expected
    assert set(depths.values()) == set(range(max(expected.values()) + 1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_lr": 0}, r"parameters\.text_lr is 0; it must be above 0\. .*parameters\.freeze\.audio=-1"),
        ({"audio_lr": "fast"}, r"parameters\.audio_lr is 'fast'"),
        ({"projection_lr": float("nan")}, r"parameters\.projection_lr is nan"),
        ({"layer_decay": 1.1}, r"parameters\.layer_decay is 1\.1; it must be above 0 and at most 1"),
        ({"freeze": {"txt": 1}}, r"parameters\.freeze names 'txt'; allowed: audio, text, projections"),
        ({"freeze": {"text": 0.5}}, r"parameters\.freeze\.text is 0\.5; allowed: 0, a whole number of epochs, or -1"),
        ({"freeze": {"text": -2}}, r"parameters\.freeze\.text is -2"),
        ({"freeze": {"text": 1, "audio": -1, "projections": 3}}, r"leaves nothing to train in the first epoch"),
    ],
)
def test_values_without_meaning_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        Groups(**values)


def test_factors_need_a_rate_and_layers():
    model, loss = two_towers()
    with pytest.raises(UsageError, match=r"multiply optimizer\.lr, which is not given"):
        Groups(text_lr=0.5)(model, loss)
    model.audio = nn.Linear(2, 2)
    with pytest.raises(UsageError, match=r"layer_decay=0\.5, but model\.audio has no numbered layers"):
        Groups(layer_decay=0.5)(model, loss, 0.1)
    assert len(Groups()(model, loss)) == 2


def test_the_configuration_changes_nothing_by_default():
    groups = build(compose_config().parameters)
    assert (groups.lr, groups.layer_decay, groups.freeze) == (Groups().lr, 1.0, Groups().freeze)
    assert groups.line(2) == ""
    cfg = compose_config(["parameters.text_lr=0.1", "parameters.layer_decay=0.8"])
    assert build(cfg.parameters).line(30) == "rates       text x 0.1, x 0.8 per layer; 30 groups"


@pytest.mark.parametrize("name", ["lamb", "lion", "adan", "muon", "adamw", "sgd"])
def test_timms_optimizers_keep_the_groups(name):
    """A group with another lr moves in proportion at the first step; one without weight decay is not decayed."""
    start = torch.linspace(1, 2, 16).reshape(4, 4)
    full, half, spared, decayed = (nn.Parameter(start.clone()) for _ in range(4))
    groups = [{"params": [full], "weight_decay": 0.0}, {"params": [half], "lr": 0.05, "weight_decay": 0.0},
              {"params": [spared], "weight_decay": 0.0}, {"params": [decayed]}]  # fmt: skip
    optimizer = timm_optimizer(groups, name, lr=0.1, weight_decay=0.5)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.1, 0.0), (0.05, 0.0), (0.1, 0.0), (0.1, 0.5),
    ]  # fmt: skip
    for parameter in (full, half):
        parameter.grad = torch.linspace(-1, 1, 16).reshape(4, 4)
    spared.grad, decayed.grad = torch.zeros(4, 4), torch.zeros(4, 4)
    optimizer.step()
    assert not torch.equal(full, start) and not torch.equal(decayed, start)
    assert torch.allclose(2 * (half - start), full - start, atol=1e-6) and torch.equal(spared, start)


def test_an_optimizer_by_name():
    cfg = compose_config(["optimizer=timm", "optimizer.opt=lion", "optimizer.lr=0.5", "+optimizer.betas=[0.5,0.6]"])
    make = build(cfg.optimizer)
    optimizer = make([{"params": [nn.Parameter(torch.ones(2, 2))]}])
    assert type(optimizer).__name__ == "Lion" and optimizer.defaults["betas"] in ([0.5, 0.6], (0.5, 0.6))
    assert make.keywords["lr"] == optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(("name", "near"), [("lamp", "lamb"), ("Lion", "lion"), ("qqqq", "adamw"), (None, "adamw")])
def test_an_unknown_optimizer_is_answered_with_near_names(name, near):
    with pytest.raises(UsageError, match=rf"optimizer\.opt is {name!r}, which timm has not; near it: .*{near}"):
        timm_optimizer([], name, lr=0.1)


def test_an_optimizer_that_needs_a_missing_package_says_so():
    with pytest.raises(UsageError, match=r"optimizer\.opt=fusedlamb cannot be used here"):
        timm_optimizer([{"params": [nn.Parameter(torch.ones(2))]}], "fusedlamb", lr=0.1)


def test_warmup_then_cosine():
    assert [warmup_cosine(step, 4, 10) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert warmup_cosine(4, 4, 10) == 1.0
    assert warmup_cosine(7, 4, 10) == pytest.approx(0.5)
    assert warmup_cosine(10, 4, 10) == pytest.approx(0.0, abs=1e-12)
    assert warmup_cosine(0, 0, 10) == 1.0  # no warm-up


def test_the_schedule_moves_the_learning_rate_of_every_group():
    """In proportion to its own: warm-up over two steps, then half a cosine over four."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": [weights[0]]}, {"params": [weights[1]], "lr": 0.5}, {"params": [weights[2]], "lr": 6.0}]
    optimizer = torch.optim.SGD(groups, lr=2.0)
    schedule = WarmupCosine(2)(optimizer, 6)
    seen = []
    for _ in range(6):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    course = [0.5, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]  # (1 + cos(pi k / 4)) / 2
    for lrs, factor in zip(seen, course, strict=True):
        assert lrs == pytest.approx([2.0 * factor, 0.5 * factor, 6.0 * factor], rel=1e-12)
