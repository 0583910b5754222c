"""What a small model's embeddings are worth on new recordings: zero-shot, linear probe and few-shot on UrbanSound8K.

    atr prepare urbansound8k --root raw/urbansound8k --out data/urbansound8k --split fold1 --split fold2 --sample-rate 32000
    for N in 0 1 2; do python train.py experiment=urbansound_fold1 seed=$N run_dir=runs/urbansound/seed$N; done
    python train.py seed=0 run_dir=runs/urbansound/demo
    python benchmarks/urbansound.py runs/urbansound/*/checkpoints/last.ckpt [--data FOLDER] [--json FILE]

Fold 1 is learnt from, fold 2 asked about: 888 clips of ten classes. Models of experiment=urbansound_fold1 have fold 1 and
its labels in their training (and ESC-10); the demo's has never heard either. Beside them: probes of the weights that the
first model began with, and of 64 numbers that need no model: each mel's mean over time, standardised by fold 1.

Two intervals of 95 %: over clips, as `atr eval` has it, and over recordings, of which fold 2 has 134 and which have up to
tens of clips alike. The second one is the honest one for new recordings. `peer` is the share of the largest class.
"""  # noqa: E501

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import atr
from atr.checkpoint import read_checkpoint
from atr.evaluation.answers import measure
from atr.evaluation.bootstrap import measured, ratio, replicate
from atr.evaluation.few_shot import few_shot
from atr.evaluation.labelled import labelled, target_of
from atr.evaluation.probe_sets import probe_sets
from atr.evaluation.record import POOLED, Result
from atr.evaluation.sets import EncodedSet, EvaluationSet, encode_set, read_set
from atr.evaluation.zero_shot import cosines
from atr.inference import DEFAULT_TEMPLATE, AudioTextModel
from atr.initialise import initial_model
from atr.provenance import environment
from atr.windows import clip_windows

Row = dict[str, Any]


@dataclass
class Folds:
    """Fold 1, which is learnt from, and fold 2, which is asked about."""

    learnt: EvaluationSet
    asked: EvaluationSet

    @property
    def majority(self) -> float:
        """The share of the largest class of fold 1 in fold 2."""
        labels = [one[0] for one in self.learnt.labels]
        return float(np.mean([one[0] == max(sorted(set(labels)), key=labels.count) for one in self.asked.labels]))


def over_recordings(hit: np.ndarray, sources: Sequence[str]) -> tuple[float, float]:
    """The interval of the share of hits where recordings are resampled, each with all its clips."""
    distinct, number = np.unique(np.array(sources), return_inverse=True)
    clips = np.bincount(number).astype(np.float64)
    (replicates,) = replicate(len(distinct), ratio(np.bincount(number, weights=hit), clips))
    one = measured("accuracy", hit.mean(), len(distinct), replicates)
    return one.low, one.high


def zero_shot_row(name: str, model: AudioTextModel, asked: EncodedSet, folds: Folds) -> tuple[Row, np.ndarray]:
    """Accuracy by the nearest label text, and the hits."""
    clips = labelled(asked)
    labels = sorted({label for one in clips.clips.labels for label in one})
    target = target_of(clips.clips, labels)
    cosine = cosines(asked.audio, model.encode_labels(labels, DEFAULT_TEMPLATE)[1])
    (one,) = measure(target, cosine, ["fold2"] * len(target), several=False)[POOLED]
    hit = target.argmax(axis=1) == cosine.argmax(axis=1)
    return row(f"{name}/zero_shot", one.value, (one.low, one.high), hit, folds) | {"prompt": DEFAULT_TEMPLATE}, hit


def probe_row(name: str, result: Result, folds: Folds) -> tuple[Row, np.ndarray]:
    """Accuracy of a linear probe, and the hits."""
    hit = np.array([one["label"] == one["answer"] for one in result.shown["answers"]])
    (one,) = result.rows[POOLED]
    found = row(f"{name}/linear_probe", one.value, (one.low, one.high), hit, folds)
    (c,), (validated,) = result.shown["c"].values(), result.shown["validated"].values()
    return found | {"c": c, "validated": validated, "remarks": result.remarks}, hit


def row(name: str, value: float, interval: tuple[float, float], hit: np.ndarray, folds: Folds) -> Row:
    """A row of the file."""
    return {
        "name": f"urbansound/{name}", "value": value, "unit": "accuracy", "peer": folds.majority,
        "ratio": value / folds.majority, "clips": len(hit), "over_clips": list(interval),
        "over_recordings": list(over_recordings(hit, folds.asked.sources)),
    }  # fmt: skip


def difference(name: str, before: np.ndarray, after: np.ndarray, sources: Sequence[str]) -> Row:
    """The paired difference of two sets of hits on the same clips, resampling recordings."""
    gain = after.astype(np.float64) - before
    low, high = over_recordings(gain, sources)
    value = float(gain.mean())
    return {"name": f"urbansound/{name}", "value": value, "unit": "accuracy", "peer": 0.0, "ratio": None,
            "clips": len(gain), "over_recordings": [low, high]}  # fmt: skip


def of_checkpoint(path: Path, folds: Folds) -> list[Row]:
    """Zero-shot, probe and few-shot of a trained model."""
    cfg = read_checkpoint(path).config
    name, model = f"{cfg.name} seed {cfg.seed}", atr.load(path)
    learnt, asked = encode_set(model, folds.learnt), encode_set(model, folds.asked)
    about = (str(path), model.fingerprint())
    zero, nearest = zero_shot_row(name, model, asked, folds)
    probe, fitted = probe_row(name, probe_sets(learnt, asked, *about), folds)
    rows = [zero, probe, difference(f"{name}/probe_minus_zero_shot", nearest, fitted, folds.asked.sources)]
    shots = few_shot(learnt, asked, *about)
    for one in shots.rows[POOLED]:
        found = {"name": f"urbansound/{name}/{one.metric}", "value": one.value, "unit": "accuracy"}
        peer = {"peer": folds.majority, "ratio": one.value / folds.majority, "clips": one.n}
        k = one.metric.partition("-")[0]
        rows.append(found | peer | {"over_clips_and_draws": [one.low, one.high], "draws": shots.shown["draws"][k]})
    return [one | {"weights": about[1][:12], "seed": cfg.seed} for one in rows]


def untrained(path: Path, folds: Folds) -> tuple[Row, AudioTextModel]:
    """A probe of the weights that a model began with."""
    cfg = read_checkpoint(path).config
    torch.manual_seed(cfg.seed)
    model = AudioTextModel(initial_model(cfg)[0])
    learnt, asked = encode_set(model, folds.learnt), encode_set(model, folds.asked)
    return probe_row("random weights", probe_sets(learnt, asked, "", ""), folds)[0], model


def mean_log_mel(model: AudioTextModel, folds: Folds) -> Row:
    """A probe of each mel's mean over time, dB, standardised by the training clips."""

    def features(clips: EvaluationSet) -> torch.Tensor:
        heard = []
        for item in clips.items:
            sound = item.open()
            assert sound is not None and not isinstance(sound, Path)
            windows = clip_windows(sound, "first", model.seconds, model.sample_rate, lambda _: None, model.clap.mel.hop)
            (window,) = windows
            heard.append(model.clap.mel(torch.from_numpy(window.waveform)[None])[0].mean(dim=0))
        return torch.stack(heard)

    learnt, asked = features(folds.learnt), features(folds.asked)
    mean, spread = learnt.mean(dim=0), learnt.std(dim=0)
    sides = [
        EncodedSet(clips, (values - mean) / spread, "first", [])
        for clips, values in ((folds.learnt, learnt), (folds.asked, asked))
    ]
    return probe_row("mean log-mel", probe_sets(sides[0], sides[1], "", ""), folds)[0]


def mean_over_seeds(rows: list[Row]) -> list[Row]:
    """The mean and the spread of the models that differ in their seed only."""
    by_name: dict[str, list[float]] = {}
    for one in rows:
        model, _, task = one["name"].removeprefix("urbansound/").partition("/")
        if "seed" in one:
            by_name.setdefault(f"{model.partition(' seed ')[0]} mean over seeds/{task}", []).append(one["value"])
    return [
        {"name": f"urbansound/{name}", "value": float(np.mean(values)), "unit": "accuracy", "peer": None, "ratio": None,
         "seeds": len(values), "sd": float(np.std(values, ddof=1))}
        for name, values in by_name.items() if len(values) > 1
    ]  # fmt: skip


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument(
        "--data", type=Path, default=Path("data/urbansound8k"), help="holds the shards of fold1 and fold2"
    )
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    folds = Folds(read_set([arguments.data / "fold1"]), read_set([arguments.data / "fold2"]))
    rows = [one for path in arguments.checkpoints for one in of_checkpoint(path, folds)]
    random, model = untrained(arguments.checkpoints[0], folds)
    rows += [*mean_over_seeds(rows), random, mean_log_mel(model, folds)]
    table = Table(
        "what", "value", "over clips", "over recordings", title=f"accuracy; largest class {folds.majority:.3f}"
    )
    table.columns[0].no_wrap = True
    for one in rows:
        intervals = [one.get("over_clips", one.get("over_clips_and_draws")), one.get("over_recordings")]
        cells = [f"{low:.3f} … {high:.3f}" if found else "" for found in intervals for low, high in [found or (0, 0)]]
        spread = f" ± {one['sd']:.3f}" if "sd" in one else ""
        table.add_row(one["name"].removeprefix("urbansound/"), f"{one['value']:.3f}{spread}", *cells)
    Console(width=120).print(table)  # as wide where the output is a file
    if arguments.json:
        data = {name: {"manifest_sha256": one.manifest_sha256, "clips": len(one), "recordings": len(set(one.sources))}
                for name, one in (("fold1", folds.learnt), ("fold2", folds.asked))}  # fmt: skip
        content = {"environment": environment(), "data": data, "rows": rows}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
