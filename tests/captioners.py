"""Captioners of random weights, which say something else about each sound, and end soon."""

import json

import torch
from hydra.utils import instantiate

from atr.config import compose_config
from atr.models.captioner import Captioner, MlpMapping, TransformerMapping, feature_dim, frames_of
from atr.models.language import CaptionTokenizer, language_model
from tests.conftest import TINY

WORDS = ["dog", "rain", "sea", "wind", "low", "high", "note", "hum", "door"]
SPOKEN = range(2, 12)  # the end token and the words; the others are never written
LOUD = 4  # times as large as they begin are the weights of a mapping, so that it says something else of each clip


def word_tokenizer(folder, words, max_tokens=8):
    """One token for each word, and `<pad>`, `<unk>`, `<end>` before them."""
    folder.mkdir(exist_ok=True)
    vocab = {word: number for number, word in enumerate(["<pad>", "<unk>", "<end>", *words])}
    content = {
        "version": "1.0", "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "added_tokens": [
            {"id": number, "content": name, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}
            for number, name in enumerate(["<pad>", "<unk>", "<end>"])
        ],
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | {"eos_token": "<end>"}))
    return CaptionTokenizer(str(folder), max_tokens)


def tiny_captioner(folder, clap=None, temporal=False, seed=8, words=WORDS):
    """A captioner with a vocabulary of 16, of which its tokenizer does not know the last ones."""
    torch.manual_seed(seed)
    clap = instantiate(compose_config(TINY).model) if clap is None else clap
    tokenizer = word_tokenizer(folder / "words", words)
    config = {"vocab_size": 16, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.25}
    dim = feature_dim(clap, temporal)
    if temporal:
        mapping = TransformerMapping(dim, 32, 4, layers=1, heads=2, frames=frames_of(clap))
        loud = [mapping.layers[0].output.weight]
    else:
        mapping = MlpMapping(dim, 32, 4)
        loud = [mapping.layers[0].weight, mapping.layers[2].weight]
    for weight in loud:
        weight.data *= LOUD
    return Captioner(clap, mapping, language_model(tokenizer, config=config), tokenizer, temporal).eval()


@torch.no_grad()
def spread(captioner, waveforms):
    """Has the mapping hear how clips differ from their mean: to a tiny encoder they are alike."""
    features = captioner.features(waveforms).flatten(0, -2)
    layer = captioner.mapping.project if captioner.temporal else captioner.mapping.layers[0]
    layer.weight /= features.std(dim=0)
    layer.bias.copy_(-layer.weight @ features.mean(dim=0))
    return captioner
