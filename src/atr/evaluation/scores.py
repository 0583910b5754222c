"""All numbers of an evaluation set: retrieval where there are captions, zero-shot where there are labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from atr.errors import DataError
from atr.evaluation.encode import Part, check_candidates, encode_labels
from atr.evaluation.retrieval import retrieval
from atr.evaluation.zero_shot import ZeroShot, zero_shot
from atr.gather import of_all_ranks
from atr.models.clap import Clap
from atr.types import Encoded


@dataclass
class Scores:
    """`retrieval` or `zero_shot` is None where the set has no captions or no (single) labels."""

    clips: int
    captions: int
    retrieval: dict[str, float] | None
    zero_shot: ZeroShot | None
    templates: list[str]

    def flat(self) -> dict[str, float]:
        """Name -> number, e.g. `retrieval/t2a/R@1`, `zero_shot/accuracy`."""
        result: dict[str, float] = {"clips": self.clips, "captions": self.captions}
        result |= {f"retrieval/{name}": value for name, value in (self.retrieval or {}).items()}
        if self.zero_shot is not None:
            zs = self.zero_shot
            result |= {
                "zero_shot/accuracy": zs.accuracy,
                "zero_shot/top5": zs.top5,
                "zero_shot/chance": zs.chance,
            }
            result |= {"zero_shot/clips": zs.clips, "zero_shot/labels": len(zs.labels)}
            result |= {f"zero_shot/recall/{label}": value for label, value in zs.per_label.items()}
        return result


def score(
    model: Clap,
    encoded: Encoded,
    templates: Sequence[str],
    device: torch.device,
    labels: Sequence[str] = (),
    over_ranks: bool = False,
) -> Scores:
    """Scores an encoded set.

    Args:
        templates: prompts with `{label}`; their embeddings are averaged.
        labels: candidates of the classification; those that stand in the set when empty. Clips that do not
            carry exactly one label are left out of the classification.
        over_ranks: all ranks call this with the same set, and each does its share of the retrieval.

    Raises:
        DataError: there is no clip, or an embedding is not finite.
    """
    if not encoded.samples:
        raise DataError("no clip of the evaluation set can be used: no numbers are given")
    if not (encoded.audio.isfinite().all() and encoded.text.isfinite().all()):
        raise DataError(
            "an embedding is NaN or infinite; the model is broken (training diverged?): no numbers are given"
        )
    single = [row for row, sample in enumerate(encoded.samples) if len(sample.labels) == 1]
    carried = {encoded.samples[row].labels[0] for row in single}
    names = sorted(labels) or sorted(carried)
    check_candidates(names, carried)
    classified = None
    if single and len(names) > 1:
        target = torch.tensor([names.index(encoded.samples[row].labels[0]) for row in single])
        classified = zero_shot(encoded.audio[single], encode_labels(model, names, templates, device), target, names)
    return Scores(
        clips=len(encoded.samples),
        captions=len(encoded.text),
        retrieval=retrieval(encoded.audio, encoded.text, encoded.clip_of_text, over_ranks=over_ranks)
        if len(encoded.text)
        else None,
        zero_shot=classified,
        templates=list(templates),
    )


def gather_ranks(parts: Sequence[Part]) -> list[Part]:
    """The parts of all ranks, on each rank."""
    return [part for rank in of_all_ranks(list(parts)) for part in rank]
