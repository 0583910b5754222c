"""Text encoders and tokenizers: random weights, files in and out, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from atr.errors import CheckpointError, UsageError
from atr.models.text import TextEncoder, Tokenizer

CONFIG = {
    "model_type": "roberta", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 80,
}  # fmt: skip


@pytest.mark.parametrize("pooling", ["pooler", "first", "mean"])
def test_one_vector_per_caption_and_a_gradient_everywhere(tokenizer, pooling):
    encoder = TextEncoder(tokenizer, config=CONFIG, pooling=pooling)
    output = encoder(**tokenizer(["a dog barks", "rain"]))
    assert output.shape == (2, 32) and encoder.dim == 32
    output.square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("pooling", ["pooler", "first", "mean"])
def test_padding_changes_nothing(tokenizer, pooling):
    encoder = TextEncoder(tokenizer, config=CONFIG, pooling=pooling).eval()
    alone = encoder(**tokenizer(["rain"]))
    padded = encoder(**tokenizer(["rain", "a much longer caption about a dog that barks in the yard"]))[:1]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=0)


def test_any_encoder_of_transformers_loads_from_a_folder(tmp_path, tokenizer):
    config = BertConfig(
        vocab_size=700, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    theirs = BertModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = TextEncoder(tokenizer, name=str(tmp_path), pooling="first").eval()
    tokens = tokenizer(["a dog barks"])
    assert torch.equal(ours(**tokens), theirs(**tokens).last_hidden_state[:, 0])


def test_published_weights_come_in_float32_in_training_mode_and_all_of_them(tmp_path, tokenizer):
    config = BertConfig(
        vocab_size=700, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).bfloat16().save_pretrained(tmp_path)
    encoder = TextEncoder(tokenizer, name=str(tmp_path))
    assert encoder.inner.training and {p.dtype for p in encoder.parameters()} == {torch.float32}
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "layer.0.output" not in k},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(UsageError, match=r"4 of its weights are not in the file \(first: encoder\.layer\.0\.output"):
        TextEncoder(tokenizer, name=str(tmp_path))


def test_the_configuration_builds_the_same_architecture_again(tokenizer):
    encoder = TextEncoder(tokenizer, config=CONFIG | {"layer_norm_eps": 1e-5})
    again = TextEncoder(tokenizer, config=encoder.config())
    again.load_state_dict(encoder.state_dict())
    tokens = tokenizer(["a dog barks"])
    assert torch.equal(again.eval()(**tokens), encoder.eval()(**tokens))
    assert again.inner.config.layer_norm_eps == 1e-5


def test_the_tokenizer_survives_as_files(tokenizer):
    again = Tokenizer.from_files(tokenizer.files(), max_tokens=77)
    texts = ["A dog barks, twice.", "zebra <mask> 123"]
    assert torch.equal(again(texts)["input_ids"], tokenizer(texts)["input_ids"])


def test_a_tokenizer_file_cannot_leave_its_folder():
    with pytest.raises(CheckpointError, match="not a plain file name"):
        Tokenizer.from_files({"../evil.json": "{}"}, max_tokens=77)


def test_long_captions_are_cut_and_short_ones_padded_to_the_longest(tokenizer):
    tokens = tokenizer(["dog " * 200, "dog"])
    assert tokens["input_ids"].shape == (2, 77)
    assert tokenizer(["dog"])["input_ids"].shape[1] < 6
    assert tokenizer([])["input_ids"].shape == (0, 1)


def test_the_mask_token_is_one_real_token(tokenizer):
    plain = tokenizer(["a dog barks"])["input_ids"][0].tolist()
    masked = tokenizer(["a <mask> barks"])["input_ids"][0].tolist()
    assert len(plain) == len(masked)
    assert [m for p, m in zip(plain, masked, strict=True) if p != m] == [tokenizer.inner.mask_token_id]


def test_what_cannot_be_loaded_is_refused_with_the_next_step(tokenizer, tmp_path):
    with pytest.raises(UsageError, match=r"tokenizer .* cannot be loaded; give a folder"):
        Tokenizer(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match=r"text encoder .* cannot be loaded; give a folder"):
        TextEncoder(tokenizer, name=str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="exactly one of"):
        TextEncoder(tokenizer)
    with pytest.raises(UsageError, match="allowed: pooler, first, mean"):
        TextEncoder(tokenizer, config=CONFIG, pooling="max")
    with pytest.raises(UsageError, match="the text encoder only 100"):
        TextEncoder(tokenizer, config=CONFIG | {"vocab_size": 100})
