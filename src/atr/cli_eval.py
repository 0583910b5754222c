"""`atr eval …` and `atr report`: argument parsing only; each verb calls one public function."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atr.cli_data import Json
from atr.cli_use import CHECKPOINT
from atr.errors import UsageError

if TYPE_CHECKING:
    from atr.evaluation.run import Evaluated

evaluation = typer.Typer(
    invoke_without_command=True,
    help="""Measure a checkpoint; each number comes with its protocol and a 95 % interval.

    atr eval retrieval CHECKPOINT data/clotho/test --out results/clotho

    atr eval zero-shot CHECKPOINT --suite environment --out results/environment

    atr eval --compare results/a/results.json results/b/results.json
    """,
    rich_markup_mode="markdown",
)
report = typer.Typer()
Model = Annotated[str, typer.Argument(help=CHECKPOINT)]
Places = Annotated[
    list[str] | None,
    typer.Argument(help="Shard folders, tars, labelled folders, csv or jsonl tables. Default: the run's test set."),
]
Covered = Annotated[str, typer.Option(help="How longer clips are covered: mean, energy, max, first, fusion.")]


def _free(folder: Path | None) -> Path | None:
    """Refuses a folder whose results would be replaced."""
    if folder is not None and (folder / "results.json").exists():
        raise UsageError(f"--out {folder} holds results already; name another folder, or remove them")
    return folder


Out = Annotated[
    Path | None,
    typer.Option(help="New folder for results.json and embeddings; for `atr report`.", callback=_free),
]
Prompts = Annotated[list[str] | None, typer.Option(help="Prompt with {label}; several are averaged.")]
BadShare = Annotated[float, typer.Option(min=0, max=1, help="Share of clips that may be unreadable.")]


@evaluation.callback()
def compare(
    context: typer.Context,
    files: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", help="Two results files (--out, --json): which differences exceed the noise?"),
    ] = None,
) -> None:
    """Measure a checkpoint, or compare two results files."""
    if files is not None:
        from atr.evaluation.compare import compare as compare_files
        from atr.evaluation.compare import print_differences

        if context.invoked_subcommand:
            raise UsageError(f"--compare stands alone, without {context.invoked_subcommand}")
        print_differences(compare_files(*files), *files)
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@evaluation.command()
def retrieval(
    checkpoint: Annotated[str | None, typer.Argument(help=CHECKPOINT)] = None,
    data: Places = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="Instead of a checkpoint: npz with audio (N, D), text (M, D), clip_of_text (M,)."),
    ] = None,
    relevance: Annotated[
        Path | None, typer.Option(help="csv `caption,clip`: all clips that fit a caption, its own among them.")
    ] = None,
    windows: Covered = "mean",
    bad: BadShare = 0.01,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Text to audio and audio to text: R@k, mAP@10, ranks. Any number of captions per clip.

    atr eval retrieval CHECKPOINT data/audiocaps/test

    atr eval retrieval CHECKPOINT data/audioatlas/overall data/audioatlas/events --out results/audioatlas

    atr eval retrieval --embeddings mine.npz --json
    """
    from atr.evaluation.verbs import retrieve, retrieve_embeddings

    if (checkpoint is None) == (embeddings is None):
        raise UsageError("name a checkpoint, or --embeddings FILE.npz; one of the two")
    if embeddings is not None:
        done = retrieve_embeddings(embeddings, relevance)
    else:
        assert checkpoint is not None
        done = retrieve(checkpoint, data or [], relevance, windows, bad)
    _show(done, out, as_json)


@evaluation.command("zero-shot")
def zero_shot(
    checkpoint: Model,
    data: Places = None,
    suite: Annotated[str, typer.Option(help="Tasks of conf/zero_shot: environment, …, all.")] = "",
    root: Annotated[Path, typer.Option(help="Folder that the suite's corpora lie in, by name.")] = Path("data"),
    prompts: Annotated[
        list[str] | None,
        typer.Option(help="paper, laion, wavcaps, audiosetcaps, bare, …; may be repeated."),
    ] = None,
    template: Prompts = None,
    labels_file: Annotated[Path | None, typer.Option(help="Candidates, one in each line. Default: the data's.")] = None,
    windows: Covered = "mean",
    bad: BadShare = 0.01,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Classification by the nearest label text: top-1, top-5 or mAP; by fold and pooled.

    atr eval zero-shot CHECKPOINT --suite environment

    atr eval zero-shot CHECKPOINT data/esc50/fold1 data/esc50/fold2 --prompts laion

    atr eval zero-shot CHECKPOINT recordings/ --template "The sound of {label}" --template "{label}"
    """
    from atr.evaluation.verbs import classify

    prompts, template = prompts or [], template or []
    _show(classify(checkpoint, data or [], suite, root, prompts, template, labels_file, windows, bad), out, as_json)


@evaluation.command()
def probe(
    checkpoint: Model,
    data: Annotated[list[str] | None, typer.Argument(help="Folds: each is the test once, the others train.")] = None,
    train: Annotated[list[str] | None, typer.Option(help="Instead of folds: to train on; may be repeated.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="To test on; may be repeated.")] = None,
    windows: Covered = "mean",
    bad: BadShare = 0.01,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Logistic regression on the frozen embeddings.

    atr eval probe CHECKPOINT data/urbansound8k/fold*

    atr eval probe CHECKPOINT --train data/us8k/fold1 --test data/us8k/fold2
    """
    from atr.evaluation.verbs import probe as run_probe

    _show(run_probe(checkpoint, data or [], train or [], test or [], windows, bad), out, as_json)


@evaluation.command()
def captioning(
    checkpoint: Annotated[str | None, typer.Argument(help="A .ckpt or .safetensors of a captioning run.")] = None,
    data: Places = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Instead of a checkpoint: csv `id,caption`, a row for each clip.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="With --predictions: csv `id,caption`, any number of rows for each clip.")
    ] = None,
    method: Annotated[str, typer.Option(help="beam, greedy or nucleus.")] = "beam",
    beams: Annotated[int, typer.Option(help="Of beam.")] = 5,
    candidates: Annotated[int, typer.Option(help="More than 1: the one nearest to the sound is kept.")] = 1,
    keywords: Annotated[
        Path | None, typer.Option(help="YAML `label: [word, …]`: does a caption name the label of its clip?")
    ] = None,
    bad: BadShare = 0.01,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Captions against references: BLEU, ROUGE-L, METEOR, CIDEr-D, SPICE, SPIDEr, FENSE, CLAP score; with controls.

    What a machine lacks for a metric is said; the others are given.

    atr eval captioning CHECKPOINT

    atr eval captioning CHECKPOINT data/clotho/test --beams 3 --out results/clotho

    atr eval captioning --predictions mine.csv --references clotho.csv --json
    """
    from atr.evaluation.captioner import caption_tables
    from atr.evaluation.verbs import caption
    from atr.models.decode import DEFAULT, Decoding

    decoding = Decoding(method=method, beams=beams, candidates=candidates)  # type: ignore[arg-type]
    if (checkpoint is None) == (predictions is None) or (predictions is None) != (references is None):
        raise UsageError("name a checkpoint, or --predictions FILE.csv with --references FILE.csv; one of the two")
    if predictions is not None:
        assert references is not None
        if keywords is not None or decoding != DEFAULT:
            raise UsageError("--method, --beams, --candidates and --keywords are for a checkpoint; leave them out")
        done = caption_tables(predictions, references)
    else:
        assert checkpoint is not None
        done = caption(checkpoint, data or [], decoding, keywords, bad)
    _show(done, out, as_json)


@evaluation.command("few-shot")
def few_shot(
    checkpoint: Model,
    train: Annotated[list[str], typer.Option(help="To draw shots from; may be repeated.")],
    test: Annotated[list[str], typer.Option(help="To test on; may be repeated.")],
    shots: Annotated[list[int] | None, typer.Option(min=1, help="Clips per class; may be repeated.")] = None,
    windows: Covered = "mean",
    bad: BadShare = 0.01,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Classification from a few clips of each class.

    atr eval few-shot CHECKPOINT --train data/us8k/fold1 --test data/us8k/fold2 --shots 1 --shots 8
    """
    from atr.evaluation.verbs import few_shot as run_few_shot

    _show(run_few_shot(checkpoint, train, test, shots or [], windows, bad), out, as_json)


@report.command("report")
def draw(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, folders of `atr eval … --out`, results files.")],
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("report.html"),
) -> None:
    """One self-contained page of one or several runs, side by side.

    atr report runs/demo/2026-…/

    atr report results/a results/b --out a_and_b.html
    """
    from atr.evaluation.report import write_report

    print(f"report      {write_report(runs, out)}")


def _show(done: "Evaluated", out: Path | None, as_json: bool) -> None:
    """Writes and prints the results; what is missing is said on stderr, and is no failure where something ran."""
    from atr.evaluation.record import to_json
    from atr.evaluation.run import write_evaluated
    from atr.evaluation.screen import print_results

    if out is not None and done.results:
        write_evaluated(out, done)
        print(f"results     {out}", file=sys.stderr)
    if as_json:
        print(to_json(done.results), end="")
    else:
        print_results(done.results)
    for line in done.missing:
        print(f"missing     {line}", file=sys.stderr)
    for line in done.failed:
        print(f"failed      {line}", file=sys.stderr)
    if done.failed or not done.results:
        raise typer.Exit(1)
