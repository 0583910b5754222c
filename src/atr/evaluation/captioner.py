"""A captioner on an evaluation set, or a table of captions against one of references -> a result."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from atr.captions import caption_sources, captioner_of
from atr.errors import DataError
from atr.evaluation import ngrams
from atr.evaluation.caption_numbers import CaptionNumbers, copies_row, label_rows, measure_captions
from atr.evaluation.captioning import clap_score, read_pair
from atr.evaluation.encode import encode_texts
from atr.evaluation.record import POOLED, Protocol, Result
from atr.evaluation.run import Evaluated, Subject, digest, saved_set
from atr.evaluation.sets import BAD_SHARE, EvaluationSet, encode_set, read_set, set_remarks
from atr.frozen import content_hash
from atr.inference import AudioTextModel, some
from atr.models.compute import fast_cpu
from atr.models.decode import DEFAULT, Decoding
from atr.pipeline.datamodule import by_corpus
from atr.pipeline.text import label_caption
from atr.provenance import environment
from atr.shards.progress import clip_bar
from atr.shards.remote import is_remote
from atr.types import BadSample

TASK = "captioning"
WINDOWS = "mean"  # how `caption_sources` covers longer clips


class Wordless(DataError):
    """A captioner wrote signs only: there is nothing to score."""


@dataclass(frozen=True)
class Beside:
    """What captions are compared with beside their references.

    Attributes:
        keywords: label -> words (`read_keywords`); None: labels are not looked at.
        training: the words of the captions that the captioner was trained on; None: not known.
        remarks: why one of them is not there.
    """

    keywords: Mapping[str, set[str]] | None = None
    training: frozenset[tuple[str, ...]] | None = None
    remarks: Sequence[str] = field(default_factory=tuple)


NOTHING = Beside()


def caption_set(
    subject: Subject,
    clips: EvaluationSet,
    decoding: Decoding = DEFAULT,
    beside: Beside = NOTHING,
    bad_share: float = BAD_SHARE,
    progress: bool = True,
) -> Evaluated:
    """Captions all clips of a set, and scores the captions against those of the set.

    Each clip is encoded twice: once for the CLAP score and the saved embeddings, once for its caption. The hash of the
    result's protocol is that of the whole captioner; the setting `clap` is that of the contrastive model inside, which
    gives the CLAP score.

    Returns:
        One result; `shown["captions"]` holds `id`, `caption` and `references` of each clip.

    Raises:
        DataError: a clip has no references, more clips are bad than `bad_share`, or see `score_captions`.
        Wordless: a caption has no word.
        UsageError: the model has no captioner.
    """
    captioner_of(subject.model)
    check_references(clips)
    encoded = encode_set(subject.model, clips, WINDOWS, bad_share, progress)
    kept = encoded.clips
    predictions = write_captions(subject.model, kept, decoding, progress)
    references = dict(zip(kept.ids, kept.captions, strict=True))
    text = encode_texts(subject.model.clap, list(predictions.values()), subject.model.device)
    found = measure_captions(predictions, references, clap_score(encoded.audio.numpy(), text.cpu().numpy()))
    add_beside(found, list(predictions.values()), kept.labels, beside)
    settings = {"decoding": asdict(decoding), "clap": subject.sha256, "notes": found.notes}
    if beside.keywords is not None:
        settings["keywords"] = digest({label: sorted(words) for label, words in sorted(beside.keywords.items())})
    whole = replace(subject, sha256=captioner_sha256(subject))
    protocol = whole.protocol(TASK, encoded, settings=settings)
    result = Result(
        protocol, {POOLED: found.rows}, shown(predictions, references), set_remarks(encoded) + found.remarks
    )
    return Evaluated([result], {kept.name: saved_set(encoded)})


def caption_tables(predictions: Path, references: Path) -> Evaluated:
    """Scores a csv file of captions, of any captioner, against one of references (columns `id` and `caption`).

    The protocol's manifest is a hash of the references and its checkpoint hash one of the predictions, so that two
    captioners on the same references are compared clip by clip.

    Raises:
        DataError: see `read_pair`.
    """
    given, many = read_pair(predictions, references)
    own = {clip: given[clip] for clip in sorted(given)}
    found = measure_captions(own, many)
    manifest = hashlib.sha256()
    for clip in own:
        manifest.update(json.dumps([clip, many[clip], []]).encode() + b"\n")  # as of an EvaluationSet without labels
    protocol = Protocol(
        TASK, references.stem, manifest.hexdigest(), len(own), "", digest(own), settings={"notes": found.notes},
        versions=environment(),
    )  # fmt: skip
    return Evaluated([Result(protocol, {POOLED: found.rows}, shown(own, many), found.remarks)])


def write_captions(
    model: AudioTextModel, clips: EvaluationSet, decoding: Decoding, progress: bool = True
) -> dict[str, str]:
    """The caption of each clip, by id, in the order of the set.

    Raises:
        DataError: a clip cannot be used.
        Wordless: a caption has no word.
    """
    written: dict[int, str] = {}
    sources = (clips.items[row] for row in clips.reading)
    with fast_cpu(), clip_bar(len(clips), progress) as on_clip:
        for row, one in zip(clips.reading, caption_sources(model, sources, decoding), strict=True):
            on_clip()
            if isinstance(one, BadSample):
                raise DataError(f"{one.key} was encoded a moment ago and cannot be used now: {one.reason}")
            written[row] = one.captions[0].text
    captions = {name: written[row] for row, name in enumerate(clips.ids)}
    if empty := [name for name, caption in captions.items() if not ngrams.tokenise(caption)]:
        raise Wordless(
            f"{len(empty)} of {len(captions)} captions have no word ({some(empty)}: {captions[empty[0]]!r}), and no "
            "metric knows such captions; train longer, or decode in another way"
        )
    return captions


def check_references(clips: EvaluationSet) -> None:
    """Refuses a set of which a clip has no caption.

    Raises:
        DataError: naming the clips.
    """
    if without := [name for name, captions in zip(clips.ids, clips.captions, strict=True) if not captions]:
        raise DataError(
            f"{len(without)} of {len(clips)} clips of {clips.name} have no captions to compare with ({some(without)}); "
            "give them some, or take a set that has"
        )


def add_beside(found: CaptionNumbers, captions: Sequence[str], labels: Sequence[Sequence[str]], beside: Beside) -> None:
    """Adds `copies` and `names_label` where they can be known.

    Raises:
        DataError: see `label_rows`.
    """
    found.remarks += beside.remarks
    if beside.training is not None:
        found.rows.append(copies_row(captions, beside.training))
    if beside.keywords is not None:
        rows = label_rows(captions, labels, beside.keywords)
        found.rows += rows
        if not rows:
            found.remarks.append("names_label: no clip carries exactly one label")


def training_words(cfg: DictConfig) -> frozenset[tuple[str, ...]]:
    """The words of each caption of a run's training data.

    Raises:
        DataError: it is not on this machine.
    """
    places = [str(place) for folders in by_corpus(cfg.data.get("train")).values() for place in folders]
    if not places or any(map(is_remote, places)):
        raise DataError("the run names no training data on this machine")
    clips = read_set(places)
    left_out, template = set(cfg.data.get("exclude_labels") or ()), cfg.data.get("label_template")
    return frozenset(
        tuple(ngrams.tokenise(caption))
        for captions, labels in zip(clips.captions, clips.labels, strict=True)
        if not left_out & set(labels)
        for caption in (captions or ([label_caption(labels, template)] if labels and template else []))
    )


def beside_run(cfg: DictConfig, keywords: Mapping[str, set[str]] | None) -> Beside:
    """What a run's captions are compared with."""
    try:
        return Beside(keywords, training_words(cfg))
    except DataError as error:
        return Beside(keywords, None, [f"copies: of the training captions nothing is known ({error})"])


def shown(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What a report shows of a result."""
    return {
        "captions": [
            {"id": clip, "caption": caption, "references": list(references[clip])}
            for clip, caption in predictions.items()
        ]
    }


def captioner_sha256(subject: Subject) -> str:
    """A hash of a captioner: contrastive model, mapping, language model and tokenizer."""
    captioner = captioner_of(subject.model)
    return digest(subject.sha256, content_hash(captioner.state_dict()), captioner.tokenizer.files())
