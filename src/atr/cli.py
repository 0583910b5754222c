"""`atr …`: argument parsing only; each verb calls one public function."""

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from atr.cli_data import Json, data
from atr.cli_eval import evaluation, report
from atr.cli_use import use
from atr.errors import AtrError, UsageError

app = typer.Typer(
    help="Train, evaluate and use contrastive audio-text models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
app.add_typer(data)
app.add_typer(evaluation, name="eval")
app.add_typer(report)
app.add_typer(use)
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--help"]}


@app.command(context_settings=PASSED_ON)
def train(context: typer.Context) -> None:
    """Train, evaluate and report, from configuration.

    Arguments are Hydra overrides; `--cfg job` prints the whole configuration, `-m` runs several.

        atr train                                    # the demo: 2 CPU cores, minutes

        atr train experiment=demo seed=1 trainer.max_epochs=10

        atr train experiment=finetune_clotho init=runs/atr_pretrain/…/checkpoints/best.ckpt
    """
    from atr.launch import launch

    launch(context.args)


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="Anything that `atr.load` takes.")],
    folder: Annotated[Path, typer.Argument(help="To write to: new, or empty.")],
    to: Annotated[str, typer.Option(help="`hf` (ClapModel and ClapProcessor of transformers) or `onnx`.")] = "hf",
    licence: Annotated[str, typer.Option(help="Of the weights, for the card, e.g. cc-by-4.0.")] = "",
    push: Annotated[str, typer.Option(help="ORG/NAME on the Hugging Face hub to upload it to.")] = "",
    tokenizer: Annotated[str | None, typer.Option(help="Folder or hub name, for a LAION .pt, which has none.")] = None,
) -> None:
    """Write a model for transformers or as ONNX; what is written is loaded again and must give the same embeddings.

    atr export CHECKPOINT --to hf DIR --licence cc-by-4.0 --push ORG/NAME

    atr export CHECKPOINT --to onnx DIR
    """
    from atr.interop.export import export as write

    done = write(checkpoint, folder, to, licence, push, tokenizer)  # type: ignore[arg-type]  # refused when it is another
    print("\n".join(done.agreement.lines()))
    print(f"written     {done.folder}" + (f"\nuploaded    {done.address}" if done.address else ""))


@app.command(context_settings=PASSED_ON)
def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Measure where a run's time goes on this machine and data, and how many workers it wants.

    Arguments are Hydra overrides, as for `atr train`; nothing is written.

        atr doctor

        atr doctor experiment=atr_pretrain data.train=[data/mine/train] --json
    """
    from atr.config import compose_config
    from atr.doctor import diagnose, print_diagnosis

    diagnosis = diagnose(compose_config(context.args))
    if as_json:
        print(json.dumps(asdict(diagnosis), indent=2))
    else:
        print_diagnosis(diagnosis)


def main() -> None:
    """Runs a verb; exits with 0, 1 (the data or the model is at fault) or 2 (wrong usage)."""
    warnings.showwarning = _print_warning  # type: ignore[assignment]
    try:
        app()
    except AtrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _print_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, UserWarning):
        print(f"warning: {message}", file=sys.stderr)
