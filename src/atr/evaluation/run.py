"""A model and a test set -> scores, with what a report needs to show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from atr.checkpoint import build_model, read_checkpoint
from atr.config import compose_config
from atr.errors import UsageError
from atr.evaluation.encode import Part, by_corpus, check_templates, encode_clips, join_set
from atr.evaluation.scores import Scores, score
from atr.models.clap import Clap
from atr.pipeline.datamodule import AudioTextData
from atr.pipeline.ledger import Ledger
from atr.types import Encoded

KEPT_WAVEFORMS = 12  # clips whose sound the report plays


@dataclass
class Evaluation:
    """Scores, the embeddings behind them, and the sound of a few clips spread over the set.

    Attributes:
        scores: of the whole set.
        by_corpus: of each corpus by itself, among its own clips and captions; empty when there is one only.
    """

    scores: Scores
    by_corpus: dict[str, Scores]
    encoded: Encoded
    waveforms: dict[int, np.ndarray]  # row -> int16 (T,)
    sample_rate: int  # Hz
    remarks: list[str]

    def flat(self) -> dict[str, float]:
        """Name -> number, e.g. `retrieval/t2a/R@1`; of several corpora also `clotho/retrieval/t2a/R@1`, …."""
        parts = {f"{name}/{key}": v for name, scores in self.by_corpus.items() for key, v in scores.flat().items()}
        return self.scores.flat() | parts


def evaluate(
    model: Clap,
    loader: DataLoader,
    ledger: Ledger,
    templates: Sequence[str],
    labels: Sequence[str] = (),
) -> Evaluation:
    """Encodes the set with the model in evaluation mode, on a GPU if there is one, and scores it.

    Args:
        ledger: counts the bad clips.
        templates: prompts of the zero-shot classification.
        labels: its candidates; those in the set when empty.

    Raises:
        DataError: more clips are bad than `ledger` allows, or an embedding is not finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    first = 0
    parts: list[Part] = []
    waveforms: dict[int, np.ndarray] = {}
    every = max(1, ledger.clips // KEPT_WAVEFORMS)
    for batch in track(loader, "evaluating", transient=True, disable=not Console().is_terminal):
        ledger.add(batch)
        kept = [row for row in range(len(batch.samples)) if (first + row) % every == 0]
        waveforms |= {first + row: mono(batch.waveform[row]) for row in kept}
        first += len(batch.samples)
        parts.append(encode_clips(model, batch.to(device)))
    encoded = join_set(model, parts, device)
    return Evaluation(
        score(model, encoded, templates, device, labels),
        {name: score(model, part, templates, device, labels) for name, part in by_corpus(encoded).items()},
        encoded,
        waveforms,
        model.mel.sample_rate,
        ledger.lines(),
    )


def mono(waveform: Tensor) -> np.ndarray:
    """int16 `(T,)` or `(2, T)` -> int16 `(T,)`, for listening."""
    return (waveform if waveform.ndim == 1 else waveform.float().mean(dim=0).to(torch.int16)).numpy()


def print_scores(evaluation: Evaluation) -> None:
    """The numbers as a table on the screen."""
    console = Console()
    for name, scores in {**evaluation.by_corpus, "": evaluation.scores}.items():
        _print(console, f"{name}: " if name else "all together: " if evaluation.by_corpus else "", scores)
    for line in evaluation.remarks:
        console.print(line, highlight=False, markup=False)


def _print(console: Console, name: str, scores: Scores) -> None:
    table = Table(title=f"{name}{scores.clips} clips, {scores.captions} captions", title_justify="left")
    for column in ("", "R@1", "R@5", "R@10", "mAP@10", "median rank"):
        table.add_column(column, justify="left" if not column else "right")
    for name, title in (("t2a", "text → audio"), ("a2t", "audio → text")):
        if r := scores.retrieval:
            cells = [f"{r[f'{name}/{key}']:.3f}" for key in ("R@1", "R@5", "R@10", "mAP@10")]
            table.add_row(title, *cells, f"{r[f'{name}/median_rank']:.0f} of {r[f'{name}/candidates']}")
    if scores.retrieval:
        console.print(table)
    if zs := scores.zero_shot:
        console.print(f"zero-shot   accuracy {zs.accuracy:.3f} ({zs.clips} clips, {len(zs.labels)} labels, chance "
                      f"{zs.chance:.3f}, prompt {scores.templates[0]!r})", highlight=False)  # fmt: skip


def evaluate_checkpoint(path: str | Path, folders: Sequence[str] = (), templates: Sequence[str] = ()) -> Evaluation:
    """Evaluates a checkpoint as its run did, or on other shard folders or with other prompts.

    Raises:
        CheckpointError, DataError: see `atr.load` and `evaluate`.
        UsageError: the run had no test set and no folder is given, or a prompt has no `{label}`.
    """
    checkpoint = read_checkpoint(path)
    cfg = checkpoint.config
    if "evaluation" not in cfg:  # a released model has no run; it is evaluated as a new run's would be
        cfg = compose_config(["init=null", "data.test=null"])
        cfg.model = checkpoint.config.model
    model = build_model(checkpoint)
    templates = check_templates(list(templates) or cfg.evaluation.templates)
    only_labels = [] if folders else cfg.data.only_labels  # the run's choice belongs to the run's test set
    test = list(folders) or OmegaConf.to_container(cfg.data).get("test")  # type: ignore[union-attr]
    if not test:
        raise UsageError(f"{path} has no test set of its own; name shard folders with --data")
    data = AudioTextData(
        [], [], test, model.text.tokenizer, cfg.data.seconds, cfg.data.sample_rate, cfg.data.batch_size,
        cfg.data.seed, only_labels=only_labels,
    )  # fmt: skip
    return evaluate(
        model, data.evaluation_loader("test"), data.ledger("test", cfg.bad_samples), templates, cfg.evaluation.labels,
    )  # fmt: skip
