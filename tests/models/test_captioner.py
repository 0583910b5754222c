"""The prefix of a clip, and the loss over its caption, against what can be computed by hand."""

import pytest
import torch
from torch import nn

import atr
from atr.errors import UsageError
from atr.models.captioner import Captioner, MlpMapping, TransformerMapping, _Layer, feature_dim, frames_of
from atr.models.language import CaptionTokenizer, language_model
from tests.conftest import ROOT, tone

SMALL = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
TEXTS = ["a dog barks!", "rain", "A baby cries loudly and takes a breath between wails."]


@pytest.fixture(scope="module")
def clap(trained):
    return atr.load(trained).clap


@pytest.fixture(scope="module")
def words():
    return CaptionTokenizer(str(ROOT / "data" / "tokenizer"), max_tokens=40)


def make(clap, words, mapping="mlp", temporal=False, **language):
    torch.manual_seed(0)
    dim = feature_dim(clap, temporal)
    frames = frames_of(clap) if temporal else None
    if mapping == "mlp":
        kind = MlpMapping(dim, 32, prefix_length=4)
    else:
        kind = TransformerMapping(dim, 32, prefix_length=4, clip_tokens=3, layers=2, heads=4, frames=frames)
    model = language_model(words, **({"config": SMALL, "train": "nothing"} | language))
    return Captioner(clap, kind, model, words, temporal)


def waves(*hertz):
    return torch.stack([torch.from_numpy(tone(one)) for one in hertz])


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_mappings_have_the_references_sizes():
    assert count(MlpMapping(512, 768, 8)) == 20_456_448
    assert count(MlpMapping(512, 768, 10)) == 31_468_800
    sizes = {8: 40_955_904, 10: 41_745_408, 40: 53_587_968}
    for length, size in sizes.items():
        assert count(TransformerMapping(512, 768, length, clip_tokens=length)) == size


@pytest.mark.parametrize("kind", [MlpMapping, TransformerMapping])
def test_an_embedding_becomes_k_places(kind):
    assert kind(16, 32, prefix_length=5)(torch.randn(3, 16)).shape == (3, 5, 32)


def test_a_layer_is_attention_and_an_mlp():
    """Against torch's own attention, whose biases of queries, keys and values are 0."""
    layer, x = _Layer(32, 4), torch.randn(2, 7, 32)
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([layer.queries.weight, layer.keys_values.weight]))
        attention.out_proj.load_state_dict(layer.output.state_dict())
    inside = layer.norm1(x)
    between = x + attention(inside, inside, inside)[0]
    expected = between + layer.mlp[2](layer.mlp[0](layer.norm2(between)).relu())
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)  # measured: 5e-7


def by_hand(captioner, features, row):
    """The losses of a caption's tokens, each from the logits at the end of what stands before it, in float64."""
    model, losses = captioner.language_model.double(), []
    heard = captioner.prefix(features).double()
    for number, token in enumerate(row):
        before = model.transformer.wte(torch.tensor([row[:number]], dtype=torch.int64)).double()
        logits = model(inputs_embeds=torch.cat([heard, before], dim=1)).logits[0, -1]
        losses.append(-logits.log_softmax(dim=0)[token].item())
    model.float()
    return losses


@pytest.mark.parametrize("mapping", ["mlp", "transformer"])
def test_the_loss_is_that_of_each_word_and_the_end(clap, words, mapping):
    captioner = make(clap, words, mapping).eval()
    features, tokens = torch.randn(3, 32), words(TEXTS)
    tokens["input_ids"][0, 2] = 0  # a word like any other
    with torch.no_grad():
        got = captioner.losses(features, **tokens)
        rows = [r[:n].tolist() for r, n in zip(tokens["input_ids"], tokens["attention_mask"].sum(1), strict=True)]
        hand = [by_hand(captioner, features[i : i + 1], row) for i, row in enumerate(rows)]
        mean = captioner.loss(features, **tokens)
    assert got.dtype == torch.float32 and rows[1][-1] == words.end and 0 in rows[0]
    torch.testing.assert_close(got.double(), torch.tensor([sum(one) for one in hand]).double(), atol=1e-3, rtol=0)
    assert mean.item() == pytest.approx(sum(map(sum, hand)) / sum(map(len, hand)), abs=1e-5)
    # What other definitions would give is far from it: no end token, or no token 0.
    assert sum(hand[1][:-1]) < got[1] - 1
    assert sum(loss for loss, token in zip(hand[0], rows[0], strict=True) if token != 0) < got[0] - 1


def test_padding_changes_nothing(clap, words):
    captioner = make(clap, words).eval()
    features = torch.randn(3, 32)
    with torch.no_grad():
        together = captioner.losses(features, **words(TEXTS))
        alone = [captioner.losses(features[i : i + 1], **words([text])) for i, text in enumerate(TEXTS)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)  # measured: 4e-6 of 200


def test_the_loss_is_float32_under_autocast(clap, words):
    captioner = make(clap, words, train="all")
    with torch.autocast("cpu", torch.bfloat16):
        features = captioner.features(waves(300, 600))
        losses = captioner.losses(features, **words(TEXTS[:2]))
    assert losses.dtype == features.dtype == torch.float32
    assert torch.equal(features, captioner.features(waves(300, 600)))


def test_a_clip_is_heard_as_by_the_contrastive_model(clap, words):
    captioner, sound = make(clap, words), waves(300, 600)
    clap.train()  # a captioner puts it back
    captioner.train()
    features = captioner.features(sound)
    assert torch.equal(features, clap.encode_audio(sound).detach()) and not features.requires_grad
    assert captioner.dim == 32 and captioner.prefix_length == 4
    integers = (sound * 32767).short()
    assert torch.equal(captioner.features(integers), captioner.features(integers / 32767))


def test_a_frozen_language_model_is_not_changed_and_has_no_gradients(clap, words):
    captioner = make(clap, words).train()
    assert not captioner.clap.training and not captioner.language_model.training and captioner.mapping.training
    before = {name: value.clone() for name, value in captioner.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in captioner.parameters() if p.requires_grad], lr=1e-2)
    captioner.loss(captioner.features(waves(300, 600)), **words(TEXTS[:2])).backward()
    optimizer.step()
    assert {name.split(".")[0] for name, p in captioner.named_parameters() if p.grad is not None} == {"mapping"}
    changed = {
        name.split(".")[0] for name, value in captioner.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"mapping"}


def test_what_is_trained_of_the_language_model_has_gradients_and_dropout(clap, words):
    lora, whole = make(clap, words, train="lora").train(), make(clap, words, train="all").train()
    for captioner in (lora, whole):
        assert captioner.language_model.training and not captioner.clap.training
        captioner.loss(torch.randn(2, 32), **words(TEXTS[:2])).backward()
    language = {n for n, p in lora.named_parameters() if p.grad is not None and n.startswith("language")}
    assert len(language) == 4 and all(name.endswith(("down", "up")) for name in language)
    assert all(p.grad is not None for p in whole.language_model.parameters())


def test_a_temporal_prefix_hears_the_order_and_needs_its_positions_for_it(clap, words):
    captioner = make(clap, words, "transformer", temporal=True).eval()
    rising = torch.cat([waves(300)[:, :8000], waves(2000)[:, :8000]], dim=1)
    falling = torch.cat([waves(2000)[:, :8000], waves(300)[:, :8000]], dim=1)
    with torch.no_grad():
        features = captioner.features(torch.cat([rising, falling]))
        assert features.shape == (2, frames_of(clap), clap.audio.dim) and captioner.dim == clap.audio.dim
        prefix, backwards = captioner.prefix(features), captioner.prefix(features.flip(1))
        assert (prefix[0] - prefix[1]).abs().max() > 0.01
        assert (prefix - backwards).abs().max() > 0.01
        captioner.mapping.positions.zero_()  # the control: a set of frames, and no order
        torch.testing.assert_close(
            captioner.prefix(features), captioner.prefix(features.flip(1)), atol=1e-5, rtol=0
        )  # measured: 5e-7


def test_a_temporal_mapping_takes_no_more_frames_than_it_has_positions():
    mapping = TransformerMapping(8, 16, 2, layers=1, heads=2, frames=5)
    assert mapping(torch.randn(1, 3, 8)).shape == (1, 2, 16)
    with pytest.raises(ValueError, match="6 frames; this mapping knows the order of 5"):
        mapping(torch.randn(1, 6, 8))


@pytest.mark.parametrize(("mapping", "temporal", "train"), [("mlp", False, "all"), ("transformer", True, "all")])
def test_two_clips_are_learnt_word_for_word(clap, words, mapping, temporal, train):
    captioner = make(clap, words, mapping, temporal, train=train).train()
    features = captioner.features(waves(250, 1900))
    texts = ["a dog barks!", "rain falls on the roof of a car."]
    optimizer = torch.optim.AdamW([p for p in captioner.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        captioner.loss(features, **words(texts)).backward()
        optimizer.step()
    captioner.eval()
    with torch.no_grad():
        said, heard = [[], []], captioner.prefix(features)
        for _ in range(20):
            before = captioner.language_model.transformer.wte(torch.tensor(said, dtype=torch.int64).view(2, -1))
            logits = captioner.language_model(inputs_embeds=torch.cat([heard, before], dim=1)).logits[:, -1]
            for row, token in zip(said, logits.argmax(dim=1).tolist(), strict=True):
                row.append(token)
    assert words.decode(said) == texts


def test_parts_that_do_not_fit_are_refused(clap, words):
    with pytest.raises(UsageError, match=r"4 places of the prefix and captions of 40 tokens make 44; .* has 20"):
        make(clap, words, config=SMALL | {"n_positions": 20})
    with pytest.raises(UsageError, match=r"the tokenizer has 601 tokens, the language model only 500"):
        make(clap, words, config=SMALL | {"vocab_size": 500})
    with pytest.raises(UsageError, match=r"heads=5 does not divide 32"):
        TransformerMapping(8, 32, heads=5)
