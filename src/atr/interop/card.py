"""The model card, `README.md` with Hugging Face's front matter: what is known of a model, and what is not."""

import json
from pathlib import Path, PurePath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import OmegaConf

import atr
from atr.checkpoint import Checkpoint
from atr.interop.agreement import CAPTIONS, Agreement, sounds
from atr.models.clap import Clap

TASK = "zero-shot-audio-classification"
TOLD = (  # of a run's configuration
    "model", "loss", "optimizer", "schedule", "parameters", "masking", "augment", "seed", "micro_batch", "ema",
)  # fmt: skip
COUNTS = ("clips", "captions", "labels", "queries", "candidates", "chance")  # in `metrics.json`, but no results
TOLD_DATA = ("batch_size", "mixture", "label_template", "exclude_labels", "stereo")
TOLD_TRAINER = ("max_epochs", "max_steps", "precision", "gradient_clip_val")


def write_card(
    folder: Path, checkpoint: Checkpoint, clap: Clap, to: str, agreement: Agreement, licence: str, where: str, name: str
) -> None:
    """Writes `README.md`.

    Args:
        folder: to write it into.
        to: `hf` or `onnx`.
        agreement: of the export with the checkpoint.
        licence: of the weights; empty when unknown.
        where: what to load it by: a name on the hub, or a folder.
        name: of the model.
    """
    environment = Environment(
        loader=PackageLoader("atr.interop", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,  # Markdown
    )  # fmt: skip
    config: Any = OmegaConf.to_container(checkpoint.config)
    numbers, tests = metrics(checkpoint), folders(config, "test")
    page = environment.get_template("card.md.j2").render(
        name=name, where=where, to=to, version=atr.__version__, step=checkpoint.step, dim=clap.dim,
        text_encoder=type(clap.text.inner).__name__, sample_rate=clap.mel.sample_rate, seconds=f"{clap.mel.seconds:g}",
        samples=round(clap.mel.seconds * clap.mel.sample_rate), max_tokens=clap.text.tokenizer.max_tokens,
        fused=clap.audio.fusion is not None, checkpoint=checkpoint.path.name, agreement=agreement.lines(),
        sounds=len(sounds(clap.mel.sample_rate, clap.mel.seconds)), captions=len(CAPTIONS),
        shards=[(name, data_line(folders(config, name), about)) for name, about in checkpoint.about["data"].items()],
        labels=checkpoint.about.get("labels", []), metrics=sorted(numbers.items()), test_sets=tests, licence=licence,
        config=yaml.safe_dump(told(config), sort_keys=False, allow_unicode=True).strip(),
    )  # fmt: skip
    front = front_matter(name, to, licence, numbers, tests)
    (folder / "README.md").write_text(f"---\n{front}\n---\n\n{page}", encoding="utf-8")


def front_matter(name: str, to: str, licence: str, numbers: dict[str, float], tests: list[str]) -> str:
    """The YAML at the top, without its dashes."""
    results = [
        EvalResult(
            task_type=TASK, dataset_type="custom", dataset_name=", ".join(tests) or "unknown", metric_type=key,
            metric_value=value,
        )
        for key, value in sorted(numbers.items())
        if key.rpartition("/")[2] not in COUNTS
    ]  # fmt: skip
    data = ModelCardData(
        license=licence or "unknown", library_name="transformers" if to == "hf" else "onnx", pipeline_tag=TASK,
        tags=["atr", "clap", "audio", "text"], model_name=name if results else None, eval_results=results or None,
    )  # fmt: skip
    return str(data.to_yaml())


def metrics(checkpoint: Checkpoint) -> dict[str, float]:
    """The numbers in the run's `metrics.json`, if they are those of this checkpoint: its best one, else its last."""
    from atr.experiment import checkpoint_of

    run_dir = checkpoint.path.parent.parent
    file = run_dir / "metrics.json"
    if not file.is_file() or checkpoint.path.with_suffix(".ckpt") != checkpoint_of(run_dir):
        return {}
    numbers = json.loads(file.read_text())
    return {key: round(value, 4) for key, value in numbers.items() if isinstance(value, int | float)}


def folders(config: dict[str, Any], name: str) -> list[str]:
    """Names of the shard folders of a run's set (`train`, `validation`, `test`)."""
    part = config.get("data", {}).get(name) or []
    places = [place for corpus in part.values() for place in corpus] if isinstance(part, dict) else part
    return [PurePath(str(place)).name for place in places]


def data_line(names: list[str], about: dict[str, Any]) -> str:
    """What a checkpoint knows of one of its sets."""
    known = [", ".join(names)] if names else []
    return "; ".join([*known, *(f"{key} {value}" for key, value in about.items())])


def told(config: dict[str, Any]) -> dict[str, Any]:
    """What of a run's configuration belongs to the model; nothing of where its files lay."""
    chosen = {key: config[key] for key in TOLD if key in config}
    for group, keys in (("data", TOLD_DATA), ("trainer", TOLD_TRAINER)):
        part = {key: config[group][key] for key in keys if key in config.get(group, {})}
        chosen |= {group: part} if part else {}
    return _without_folders(chosen)


def _without_folders(node: Any) -> Any:
    """Absolute paths -> their last part."""
    if isinstance(node, dict):
        return {key: _without_folders(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_folders(value) for value in node]
    return PurePath(node).name if isinstance(node, str) and PurePath(node).is_absolute() else node
