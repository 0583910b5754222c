"""A loader -> embeddings of a whole evaluation set."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from atr.models.clap import Clap
from atr.types import Batch, Embeddings, Encoded


@torch.inference_mode()
def encode_batch(model: Clap, batch: Batch) -> Embeddings:
    """Encodes a batch in float32; both sides come back on the CPU."""
    with torch.autocast(batch.waveform.device.type, enabled=False):
        audio = model.encode_audio(batch.waveform)
        if len(batch.input_ids) == 0:  # a corpus with labels only
            return Embeddings(audio.cpu(), audio.new_zeros(0, audio.shape[1]).cpu())
        return Embeddings(audio.cpu(), model.encode_text(batch.input_ids, batch.attention_mask).cpu())


def gather_set(parts: Sequence[tuple[Embeddings, Batch]]) -> Encoded:
    """Joins the batches of an evaluation set."""
    rows, first = [], 0
    for _, batch in parts:
        rows.append(batch.row_of_caption.cpu() + first)
        first += len(batch.samples)
    return Encoded(
        audio=torch.cat([embeddings.audio for embeddings, _ in parts]),
        text=torch.cat([embeddings.text for embeddings, _ in parts]),
        clip_of_text=torch.cat(rows),
        samples=[sample for _, batch in parts for sample in batch.samples],
    )


def encode_set(model: Clap, batches: Iterable[Batch], device: torch.device) -> Encoded:
    """Encodes all batches with the model in evaluation mode."""
    was_training = model.training
    model.eval()
    parts = [(encode_batch(model, batch.to(device)), batch) for batch in batches]
    model.train(was_training)
    return gather_set(parts)


@torch.inference_mode()
def encode_labels(model: Clap, labels: Sequence[str], templates: Sequence[str], device: torch.device) -> Tensor:
    """One vector per label: the normalised mean over the templates, `(C, D)` on the CPU.

    Underscores in labels become blanks; a template holds `{label}`.
    """
    prompts = [template.format(label=label_text(label)) for label in labels for template in templates]
    tokens = model.text.tokenizer(prompts)
    text = model.encode_text(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))
    mean = text.reshape(len(labels), len(templates), -1).mean(dim=1)
    return torch.nn.functional.normalize(mean, dim=1).cpu()


def label_text(label: str) -> str:
    """`dog_bark` -> `dog bark`."""
    return label.replace("_", " ")
