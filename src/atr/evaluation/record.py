"""Numbers with what they depend on: a row for each, in a JSON file that is compared, reported and kept."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from atr.collection import whole_file
from atr.errors import DataError
from atr.evaluation.bootstrap import Measured

FORMAT = 1
FILE = "results.json"
POOLED, MEAN = "all", "mean over folds"  # folds of rows: over all clips, and of the numbers of the folds
TIES = "expectation over their order"


@dataclass(frozen=True)
class Protocol:
    """All that a number depends on.

    Attributes:
        task: retrieval, zero-shot, probe, few-shot or captioning.
        dataset: its name; `manifest_sha256`: of its ids, captions and labels; `clips`: that could be used.
        checkpoint: where it was; `checkpoint_sha256`: of its weights, front end and tokenizer.
        templates: prompts, averaged; `label_rule`: what is done to labels before they stand in one.
        windows: how clips longer than the model's window are covered.
        crop_seed: of random crops; None: nothing is drawn.
        ties: what equal similarities count as.
        settings: of the task alone, plain values.
        versions: of the code, its packages and the machine.
    """

    task: str
    dataset: str
    manifest_sha256: str
    clips: int
    checkpoint: str
    checkpoint_sha256: str
    templates: tuple[str, ...] = ()
    label_rule: str = ""
    windows: str = ""
    crop_seed: int | None = None
    ties: str = TIES
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)


@dataclass
class Result:
    """What one task gave on one set.

    Attributes:
        rows: numbers by fold; those over all clips under `POOLED`.
        shown: what a report draws beside them, plain values: `labels`, `confusion` (true label in rows), `per_class`.
        remarks: what a reader should know, e.g. clips that could not be read.
    """

    protocol: Protocol
    rows: dict[str, list[Measured]]
    shown: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def value(self, metric: str, fold: str = POOLED) -> float:
        """One number.

        Raises:
            KeyError: there is none of that name.
        """
        for one in self.rows.get(fold, ()):
            if one.metric == metric:
                return one.value
        raise KeyError(f"{fold} {metric}")


def json_rows(result: Result) -> Iterator[dict[str, Any]]:
    """A JSON row for each number: metric, value, 95 % interval, n, fold, replicates, and the whole protocol.

    A replicate that is NaN, of a resample that gave no number, becomes null.

    Raises:
        DataError: the number or its interval is NaN or infinite.
    """
    protocol = asdict(result.protocol)
    for fold, measured in result.rows.items():
        for one in measured:
            if not np.isfinite([one.value, one.low, one.high]).all():
                raise DataError(
                    f"{result.protocol.task} on {result.protocol.dataset}: {one.metric} of {fold} is {one.value}, from "
                    f"{one.low} to {one.high}; a results file holds finite numbers only"
                )
            yield {
                "task": result.protocol.task, "dataset": result.protocol.dataset, "fold": fold, "metric": one.metric,
                "value": one.value, "low": one.low, "high": one.high, "n": one.n,
                **{name: value for name, value in protocol.items() if name not in ("task", "dataset")},
                "replicates": [None if np.isnan(x) else float(f"{x:.6g}") for x in one.replicates.tolist()],
            }  # fmt: skip


def to_json(results: Sequence[Result]) -> str:
    """The text of a results file.

    Raises:
        DataError: a result has no numbers, or one that is NaN or infinite.
    """
    if empty := [one.protocol for one in results if not any(one.rows.values())]:
        raise DataError(f"{empty[0].task} on {empty[0].dataset} has no numbers; a results file holds some for each")
    content = [{"rows": list(json_rows(one)), "shown": one.shown, "remarks": one.remarks} for one in results]
    rows = ",\n".join(
        '{"rows": [\n' + ",\n".join(json.dumps(row, allow_nan=False) for row in one["rows"]) + "],\n"
        f' "shown": {json.dumps(one["shown"], allow_nan=False)},\n "remarks": {json.dumps(one["remarks"])}}}'
        for one in content
    )
    return f'{{"format": {FORMAT}, "results": [\n{rows}\n]}}\n'


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Writes a results file, whole or not at all.

    Raises:
        DataError: it cannot be written, or see `to_json`.
    """
    text = to_json(results)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def read_results(path: Path) -> list[Result]:
    """Reads what `write_results` or `atr eval … --json` wrote.

    Raises:
        DataError: it is not there, or no such file.
    """
    if not path.is_file():
        raise DataError(f"{path} is not there; `atr eval … --out FOLDER` writes FOLDER/{FILE}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}; this version of atr reads {FORMAT}")
        return [_result(one) for one in content["results"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path} holds no results of `atr eval` ({type(error).__name__}: {error}); make it with --out or --json"
        ) from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of a results file")


def _result(content: dict[str, Any]) -> Result:
    rows: dict[str, list[Measured]] = {}
    for row in content["rows"]:
        value, low, high = (float(row[name]) for name in ("value", "low", "high"))
        replicates = np.array(row["replicates"], np.float64)
        if not np.isfinite([value, low, high]).all():
            raise ValueError(f"{row['metric']} is {value}, from {low} to {high}")
        if replicates.ndim != 1:
            raise ValueError(f"replicates of shape {replicates.shape}")
        one = Measured(str(row["metric"]), value, low, high, int(row["n"]), replicates)
        rows.setdefault(str(row["fold"]), []).append(one)
    of_protocol = {one.name: content["rows"][0][one.name] for one in fields(Protocol)}
    if wrong := [
        one.name for one in fields(Protocol) if one.type is str and not isinstance(of_protocol[one.name], str)
    ]:
        raise TypeError(f"{wrong[0]} is {of_protocol[wrong[0]]!r}, no text")
    protocol = Protocol(**of_protocol | {"templates": tuple(of_protocol["templates"])})
    return Result(protocol, rows, dict(content["shown"]), [str(one) for one in content["remarks"]])
