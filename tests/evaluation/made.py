"""Results, embeddings and runs made without a model: real files of known content."""

from pathlib import Path

import numpy as np

from atr.evaluation import bootstrap
from atr.evaluation.bootstrap import Measured, ratio
from atr.evaluation.record import FILE, Protocol, Result, write_results
from atr.evaluation.saved import FOLDER, SavedSet, write_saved
from atr.evaluation.sets import read_set


def measured(metric: str, per_clip: np.ndarray) -> Measured:
    """The mean over clips with its bootstrap."""
    n = len(per_clip)
    return bootstrap.measured(metric, per_clip.mean(), n, bootstrap.replicate(n, ratio(per_clip, np.ones(n)))[0])


def result(per_clip: np.ndarray, task: str = "zero-shot", metric: str = "accuracy", **protocol: object) -> Result:
    """A result of one number over clips."""
    fields = {
        "task": task, "dataset": "notes", "manifest_sha256": "aa", "clips": len(per_clip), "checkpoint": "last.ckpt",
        "checkpoint_sha256": "bb", "templates": ("The sound of {label}",), "windows": "mean",
    }  # fmt: skip
    return Result(Protocol(**fields | protocol), {"all": [measured(metric, per_clip)]})


def saved(clips: int = 12, dim: int = 8, seed: int = 0, places: tuple[str, ...] = ("nowhere",)) -> SavedSet:
    """Random unit vectors of clips with two labels, and two captions each, of which the second stands on all clips."""
    rng = np.random.default_rng(seed)
    audio, text = rng.normal(size=(clips, dim)), rng.normal(size=(clips + 1, dim))
    columns = [column for clip in range(clips) for column in (clip, clips)]
    return SavedSet(
        audio=unit(audio),
        text=unit(text)[columns],
        clip_of_text=np.repeat(np.arange(clips), 2),
        ids=[f"clip{number:02d}" for number in range(clips)],
        captions=[f"caption {column}" for column in columns],
        labels=[["low_note"] if number < clips // 2 else ["high_note"] for number in range(clips)],
        titles=[f"title {number}" for number in range(clips)],
        folds=["notes"] * clips,
        places=list(places),
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_run(
    folder: Path, shards: Path, wrong: int = 3, seed: int = 0, curves: bool = True, **protocol: object
) -> Path:
    """A run over the 16 clips of `shards`, the first `wrong` of which are answered wrongly."""
    clips = read_set([shards], "notes")
    rng = np.random.default_rng(seed)
    texts, owner = clips.clip_of_text()
    labels = [one[0] for one in clips.labels]
    names = sorted(set(labels))
    answers = [names[(names.index(label) + (row < wrong)) % 2] for row, label in enumerate(labels)]
    confusion = np.zeros((2, 2), int)
    for label, answer in zip(labels, answers, strict=True):
        confusion[names.index(label), names.index(answer)] += 1
    right = np.array([float(a == b) for a, b in zip(labels, answers, strict=True)])
    one = result(right, **protocol)
    one.shown = {
        "labels": names,
        "confusion": confusion.tolist(),
        "per_class": {name: float(confusion[i, i] / confusion[i].sum()) for i, name in enumerate(names)},
        "answers": [
            {"id": name, "label": label, "answer": answer, "score_label": 0.2, "score_answer": 0.2 + 0.01 * row}
            for row, (name, label, answer) in enumerate(zip(clips.ids, labels, answers, strict=True))
        ],
    }
    one.remarks = ["one clip is short"]
    (folder / FOLDER).mkdir(parents=True)
    other = result(rng.random(16), "retrieval", "t2a/R@10", **protocol)
    other.rows["fold1"] = [measured("t2a/R@10", rng.random(8))]
    write_results(folder / FILE, [one, other])
    audio, text = unit(rng.normal(size=(16, 8))), unit(rng.normal(size=(len(texts), 8)))
    kept = SavedSet(
        audio, text, owner.numpy(), clips.ids, texts, clips.labels, clips.titles, clips.folds, [str(shards)]
    )
    write_saved(folder / FOLDER / "notes.npz", kept)
    if curves:
        (folder / "metrics.csv").write_text(f"epoch,step,train/logit_scale,train/loss\n0,4,14.2,{3 + seed}\n0,9,,2.5\n")
        (folder / "config.yaml").write_text(f"seed: {seed}\nrun_dir: {folder}\ndata:\n  batch_size: 8\n")
        (folder / "environment.json").write_text('{"python": "3.11"}\n')
    return folder
