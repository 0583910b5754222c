"""Captions as tokens with an end, and which weights of a language model are trained."""

import csv
import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from atr.errors import CheckpointError, UsageError
from atr.models.language import CaptionTokenizer, Lora, language_model
from tests.conftest import ROOT, SHARED

TOKENIZER = str(ROOT / "data" / "tokenizer")
SMALL = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}


@pytest.fixture(scope="module")
def words():
    return CaptionTokenizer(TOKENIZER, max_tokens=40)


def test_a_caption_ends_once_and_padding_is_told_by_the_mask(words):
    tokens = words(["A dog barks!", "Rain falls."])
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    assert ids.dtype == mask.dtype == torch.int64 and ids.shape == mask.shape
    for row, length in zip(ids, mask.sum(dim=1), strict=True):
        assert (row[:length] == words.end).sum() == 1 and row[length - 1] == words.end
        assert (row[length:] == words.end).all()
    assert words.inner.bos_token_id not in ids
    assert words.decode(ids) == ["a dog barks!", "rain falls."]
    assert words([])["input_ids"].shape == (0, 1)


def test_a_caption_that_is_cut_has_no_end():
    words = CaptionTokenizer(TOKENIZER, max_tokens=4)
    texts = ["a dog barks!", "a dog barks", "a dog barks loud and long"]
    tokens = words(texts)
    assert tokens["attention_mask"].sum(dim=1).tolist() == [4, 4, 4] and words.too_long(texts) == 2
    assert [words.end in row for row in tokens["input_ids"].tolist()] == [False, True, False]
    assert words.too_long([]) == 0


def test_decoding_stops_at_the_first_end(words):
    dog = words(["a dog"])["input_ids"][0].tolist()
    assert words.decode([dog + dog, dog[:-1], [words.end]]) == ["a dog", "a dog", ""]
    odd = words(["  a \n\n dog\x1b[31m\x07 barks\t", "\n \x00\x9f"])["input_ids"]
    assert words.decode(odd) == ["a dog [31m barks", ""]  # nothing that steers a terminal


def test_it_travels_as_files(words):
    again = CaptionTokenizer.from_files(words.files(), 40)
    text = ["A rooster crows at dawn."]
    assert torch.equal(again(text)["input_ids"], words(text)["input_ids"]) and again.end == words.end
    with pytest.raises(CheckpointError, match="not a plain file name"):
        CaptionTokenizer.from_files({"../tokenizer.json": "{}"}, 40)


def test_a_tokenizer_without_an_end_is_refused(tmp_path, words):
    for name, content in words.files().items():
        (tmp_path / name).write_text(content.replace('"eos_token": "</s>"', '"eos_token": null'))
    with pytest.raises(UsageError, match="has no end token"):
        CaptionTokenizer(str(tmp_path))


def test_published_weights_are_loaded_and_frozen(tmp_path, words):
    torch.manual_seed(3)
    published = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **SMALL))
    published.save_pretrained(tmp_path / "gpt2")
    model = language_model(words, name=str(tmp_path / "gpt2"))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in published.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for p in language_model(words, name=str(tmp_path / "gpt2"), train="all").parameters())
    assert model.lm_head.weight is model.transformer.wte.weight


def test_weights_that_are_no_gpt2_are_refused(tmp_path, words):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **SMALL))
    model.config.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"cannot be loaded; give a folder with GPT-2's"):
        language_model(words, name=str(tmp_path))
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight" and ".h.1." not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UsageError, match=r"12 of its weights are not in the file \(first: transformer\.h\.1\."):
        language_model(words, name=str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of `name`"),
        ({"name": "gpt2", "config": SMALL}, "exactly one of `name`"),
        ({"config": SMALL, "train": "some"}, "train is 'some'; allowed: nothing, lora, all"),
        ({"config": SMALL, "train": "lora", "rank": 0}, "rank=0 and scale=2.0; rank is 1 or more"),
        ({"config": SMALL, "train": "lora", "scale": -1.0}, "scale=-1.0; rank is 1 or more, scale above 0"),
    ],
)
def test_values_without_meaning_are_refused(words, settings, message):
    with pytest.raises(UsageError, match=message):
        language_model(words, **settings)


def test_lora_begins_as_nothing_and_is_what_is_trained(words):
    torch.manual_seed(0)
    plain = language_model(words, config=SMALL).eval()
    torch.manual_seed(0)
    model = language_model(words, config=SMALL, train="lora", rank=4).eval()
    ids = torch.arange(12).view(2, 6)
    assert torch.equal(model(ids).logits, plain(ids).logits)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"transformer.h.{block}.attn.c_attn.{part}" for block in (0, 1) for part in ("down", "up")}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 4 * (32 + 96)


def test_lora_is_the_layer_with_its_product_added_to_the_weight(words):
    lora = language_model(words, config=SMALL, train="lora", rank=4, scale=0.5).transformer.h[0].attn.c_attn
    assert isinstance(lora, Lora)
    torch.nn.init.normal_(lora.up)
    x = torch.randn(3, 5, 32)
    got = lora(x)
    expected = x @ (lora.inner.weight + 0.5 * lora.down @ lora.up) + lora.inner.bias
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)  # measured: 1e-6
    assert not torch.allclose(got, lora.inner(x), atol=1e-2)


@pytest.mark.skipif(not (SHARED / "data" / "tokenizers" / "gpt2").is_dir(), reason="needs the shared files")
def test_gpt2s_own_tokenizer(tmp_path):
    """Its end is 50256, "!" is token 0, and 67 tokens hold every caption of Clotho."""
    folder = SHARED / "data" / "tokenizers" / "gpt2"
    vocabulary = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text().splitlines()[1:] if line]
    GPT2Tokenizer(vocab=vocabulary, merges=merges).save_pretrained(tmp_path)
    words = CaptionTokenizer(str(tmp_path), max_tokens=67)
    tokens = words(["Hello world", "Rain!"])
    assert tokens["input_ids"].tolist() == [[15496, 995, 50256], [31443, 0, 50256]] and words.end == 50256
    assert words.decode(tokens["input_ids"]) == ["Hello world", "Rain!"]
    with (SHARED / "data" / "captions" / "clotho" / "test.csv").open() as file:
        captions = [row[f"caption_{number}"] for row in csv.DictReader(file) for number in range(1, 6)]
    assert len(captions) == 5_225 and words.too_long(captions) == 0
