"""Batches -> embeddings of a whole evaluation set."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from atr.errors import UsageError
from atr.gather import of_all_ranks, place
from atr.models.clap import Clap
from atr.pipeline.text import label_text
from atr.types import Batch, Encoded

Part = tuple[Tensor, Batch]  # a batch and its clips' embeddings (B, D) on the CPU
TEXTS_AT_ONCE = 256


@torch.inference_mode()
def encode_clips(model: Clap, batch: Batch) -> Part:
    """Encodes the clips of a batch in float32."""
    with torch.autocast(batch.waveform.device.type, enabled=False):
        audio = model.encode_audio(batch.waveform) if batch.samples else torch.zeros(0, model.dim)
    return audio.cpu(), replace(batch.to("cpu"), waveform=batch.waveform[:0].cpu())


@torch.inference_mode()
def encode_texts(model: Clap, texts: Sequence[str], device: torch.device, over_ranks: bool = False) -> Tensor:
    """Embeds captions in float32, each distinct one once: `(M, D)` on the CPU.

    They are encoded in the order of their lengths. So little is padded, and in whatever order they come, a caption
    stands in the same batch and gets the same embedding.

    Args:
        over_ranks: all ranks call this with the same captions, in any order, and each encodes its share of the batches.
    """
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    rank, world = place() if over_ranks else (0, 1)
    own = {}
    for first in range(rank * TEXTS_AT_ONCE, len(distinct), world * TEXTS_AT_ONCE):
        tokens = model.text.tokenizer(distinct[first : first + TEXTS_AT_ONCE])
        with torch.autocast(device.type, enabled=False):
            own[first] = model.encode_text(**{name: value.to(device) for name, value in tokens.items()}).cpu()
    batches = {first: rows for part in (of_all_ranks(own) if over_ranks else [own]) for first, rows in part.items()}
    rows = torch.cat([torch.zeros(0, model.dim), *(batches[first] for first in sorted(batches))])
    number = {text: i for i, text in enumerate(distinct)}
    return rows[[number[text] for text in texts]]


def join_set(model: Clap, parts: Sequence[Part], device: torch.device, over_ranks: bool = False) -> Encoded:
    """The clips of an evaluation set with all their captions.

    Args:
        over_ranks: all ranks call this with the parts of all ranks, and each encodes its share of the captions.
    """
    samples = [sample for _, batch in parts for sample in batch.samples]
    captions = [caption for sample in samples for caption in sample.captions]
    return Encoded(
        audio=torch.cat([audio for audio, _ in parts]),
        text=encode_texts(model, captions, device, over_ranks),
        clip_of_text=torch.tensor([row for row, s in enumerate(samples) for _ in s.captions], dtype=torch.int64),
        samples=samples,
    )


def by_corpus(encoded: Encoded) -> dict[str, Encoded]:
    """Corpus -> its clips with their captions; empty when there is one corpus only."""
    corpora = [sample.corpus for sample in encoded.samples]
    names = sorted(set(corpora)) if len(set(corpora)) > 1 else []
    return {name: encoded.of([row for row, corpus in enumerate(corpora) if corpus == name]) for name in names}


@torch.inference_mode()
def encode_labels(model: Clap, labels: Sequence[str], templates: Sequence[str], device: torch.device) -> Tensor:
    """One vector per label: the normalised mean over the templates, `(C, D)` on the CPU.

    Underscores in labels become blanks; a template holds `{label}`.
    """
    prompts = [template.replace("{label}", label_text(label)) for label in labels for template in templates]
    mean = encode_texts(model, prompts, device).reshape(len(labels), len(templates), -1).mean(dim=1)
    return torch.nn.functional.normalize(mean, dim=1)


def check_templates(templates: Sequence[str]) -> list[str]:
    """Refuses an empty list and prompts without `{label}`.

    Raises:
        UsageError: naming the prompt.
    """
    if not templates:
        raise UsageError("no prompt template; name at least one, e.g. 'The sound of {label}'")
    if wrong := [template for template in templates if "{label}" not in template]:
        raise UsageError(f"template {wrong[0]!r} has no {{label}} in it")
    return list(templates)


def check_candidates(candidates: Sequence[str], labels: Collection[str]) -> None:
    """Refuses candidates of a classification that lack a label of the set.

    Raises:
        UsageError: naming the first one.
    """
    if unknown := sorted(set(labels) - set(candidates)):
        raise UsageError(
            f"evaluation.labels lacks {unknown[0]!r}, which stands on clips of the set; it has {', '.join(candidates)}"
        )
