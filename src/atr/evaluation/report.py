"""A run as one self-contained HTML page: numbers, curves, pictures, and sound to listen to."""

import base64
import io
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import soundfile
from jinja2 import Environment, PackageLoader, StrictUndefined

import atr
from atr.evaluation import pictures
from atr.evaluation.run import Evaluation

NEAREST = 4  # captions shown for a clip
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


@dataclass
class Heard:
    """A clip of the report: its sound, its captions or labels, and what the model puts nearest."""

    key: str
    title: str
    labels: str
    audio: str  # data URI
    nearest: list[tuple[float, str, bool]]  # cosine, caption, is it the clip's own
    own_rank: int | None  # place of the best own caption among the distinct captions, 1 is first


def write_report(run_dir: Path, evaluation: Evaluation, config: str, remarks: list[str]) -> Path:
    """Writes `run_dir/report/index.html`.

    Args:
        run_dir: its `metrics.csv` gives the curves, if it is there.
        config: of the run, as YAML.
        remarks: on the training data.
    """
    scores, metrics = evaluation.scores, run_dir / "metrics.csv"
    drawn = [
        ("Loss", pictures.curve(metrics, "train/loss", "training loss")),
        ("Scale", pictures.curve(metrics, "train/logit_scale", "logit scale (1 / temperature)")),
        (
            "Validation",
            pictures.curve(metrics, "validation/retrieval/t2a/mAP@10", "validation, text → audio mAP@10"),
        ),
    ]
    confusion = pictures.confusion(scores.zero_shot) if scores.zero_shot else None
    similarity = pictures.similarity(evaluation.encoded) if scores.captions else None
    environment = Environment(
        loader=PackageLoader("atr.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        name=run_dir.parent.name,
        run=run_dir.name,
        version=atr.__version__,
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        scores=scores,
        retrieval=scores.retrieval,
        zero_shot=scores.zero_shot,
        retrievals=retrievals(evaluation),
        curves=[(name, _uri(png, "image/png")) for name, png in drawn if png],
        confusion=_uri(confusion, "image/png") if confusion else None,
        similarity=_uri(similarity, "image/png") if similarity else None,
        heard=hear(evaluation),
        remarks=[*remarks, *evaluation.remarks],
        config=config,
    )
    path = run_dir / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def retrievals(evaluation: Evaluation) -> list[tuple[str, dict[str, float]]]:
    """Retrieval numbers of each corpus, and of the whole set, whose name is empty where it is the only one."""
    parts = {**evaluation.by_corpus, "all together" if evaluation.by_corpus else "": evaluation.scores}
    return [(name, scores.retrieval) for name, scores in parts.items() if scores.retrieval]


def hear(evaluation: Evaluation) -> list[Heard]:
    """The kept clips with their nearest captions among the distinct ones of the set."""
    encoded = evaluation.encoded
    captions = [caption for sample in encoded.samples for caption in sample.captions]
    distinct = {caption: column for column, caption in reversed(list(enumerate(captions)))}
    texts, columns = list(distinct), list(distinct.values())
    result = []
    for row, waveform in evaluation.waveforms.items():
        sample = encoded.samples[row]
        nearest, own_rank = [], None
        if texts:
            cosine = encoded.text[columns] @ encoded.audio[row]
            order = cosine.argsort(descending=True, stable=True).tolist()
            nearest = [(float(cosine[i]), texts[i], texts[i] in sample.captions) for i in order[:NEAREST]]
            own_rank = next((place for place, i in enumerate(order, 1) if texts[i] in sample.captions), None)
        audio = _sound(waveform, evaluation.sample_rate)
        key = "/".join(sample.key.split("/")[-2:])  # the folder's name and below
        result.append(Heard(key, sample.title, ", ".join(sample.labels), audio, nearest, own_rank))
    return result


def _sound(waveform: object, sample_rate: int) -> str:
    """int16 `(T,)` as a data URI that browsers play."""
    stream, kind = io.BytesIO(), "MP3" if sample_rate in MP3_RATES else "FLAC"
    soundfile.write(stream, waveform, sample_rate, format=kind)
    return _uri(stream.getvalue(), "audio/mpeg" if kind == "MP3" else "audio/flac")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
