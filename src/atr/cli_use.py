"""The verbs that use a model: `atr classify | embed | search | caption`; argument parsing only."""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from atr.cli_data import Json
from atr.errors import UsageError
from atr.types import BadSample

use = typer.Typer()
SHOWN = 20  # bad files named on the screen
CHECKPOINT = (
    "A .ckpt or .safetensors of atr, a folder or hub name of ClapModel (what `atr export` writes), a .pt of LAION-CLAP."
)
Model = Annotated[str, typer.Argument(help=CHECKPOINT)]
Places = Annotated[list[str], typer.Argument(help="Folders of sounds, sound files, shard folders, tars.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
COVERED = "How longer clips are covered: mean, energy, max, first, fusion (models that have it)"


@use.command()
def classify(
    checkpoint: Model,
    files: Places,
    labels: Annotated[str, typer.Option(help="Candidates, separated by commas. Default: the training data's.")] = "",
    labels_file: Annotated[Path | None, typer.Option(help="Candidates, one in each line of a text file.")] = None,
    template: Annotated[str, typer.Option(help="Prompt with {label}.")] = "The sound of {label}",
    windows: Annotated[str, typer.Option(help=f"{COVERED}.")] = "mean",
    top: Annotated[int, typer.Option(min=1, help="Labels printed per file.")] = 3,
    table: Annotated[Path | None, typer.Option("--csv", help="File to write path, label_1, cosine_1, … into.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Choose the label whose text is nearest to a sound. Files that cannot be used are listed; exit status 1.

    atr classify last.ckpt street.wav dog.ogg --labels "dog bark,rain,engine"

    atr classify last.ckpt recordings/ --labels-file labels.txt --csv labels.csv --top 5
    """
    import atr
    from atr.classify import classify_places, read_labels, write_csv

    if labels and labels_file:
        raise UsageError("both --labels and --labels-file are given; choose one")
    if table is not None and not table.absolute().parent.is_dir():
        raise UsageError(f"--csv {table}: its folder does not exist; make it first")
    names = read_labels(labels_file) if labels_file else [name.strip() for name in labels.split(",") if name.strip()]
    ranked, bad, remarks = classify_places(atr.load(checkpoint), files, names, template, windows, not quiet)
    for remark, about in remarks.items():
        from atr.inference import some

        warnings.warn(f"{some(about)}: {remark}", stacklevel=1)
    if table is not None:
        write_csv(table, ranked, top)
        print(f"{len(ranked)} clips: {table}", file=sys.stderr)
    if as_json:
        rows = {file: [{"label": n, "cosine": c} for n, c in answer[:top]] for file, answer in ranked.items()}
        print(json.dumps(rows, indent=2))
    elif table is None:
        for file, answer in ranked.items():
            print(f"{file}  " + "  ".join(f"{label} {cosine:.3f}" for label, cosine in answer[:top]))
    _list_bad(bad)


@use.command()
def embed(
    checkpoint: Model,
    places: Places,
    out: Annotated[Path, typer.Option(help="File to write: .npz, or .parquet (needs atr[data]).")],
    windows: Annotated[str, typer.Option(help=f"{COVERED}; each: a vector for each window, with times.")] = "mean",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Embed sounds into one file: ids, times, vectors. Stopped or killed, the same command goes on.

    What cannot be read is listed, and in the file; the exit status is then 1.

        atr embed best.ckpt recordings/ --out recordings.npz

        atr embed best.ckpt recordings/ --windows each --out recordings.parquet    # search then answers with times

        atr embed best.ckpt data/clotho/test --out clotho.npz
    """
    from atr.embed import embed as embed_places
    from atr.embed import summary

    try:
        done, left_out = embed_places(checkpoint, places, out, windows, not quiet)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        raise
    if as_json:
        clips = len(done.firsts())
        numbers = {"clips": clips, "vectors": len(done.ids), "dim": done.vectors.shape[1], "bad": len(done.bad)}
        print(json.dumps(numbers | {"left_out": len(left_out), "out": str(out)} | done.about, indent=2))
    lines = summary(done, left_out, out)
    print(lines[0], file=sys.stderr if as_json else sys.stdout)
    for line in lines[1:]:
        warnings.warn(line, stacklevel=1)
    _list_bad(done.bad)


@use.command()
def search(
    embeddings: Annotated[Path, typer.Argument(help="A file that `atr embed` wrote.")],
    texts: Annotated[list[str], typer.Argument(help="What to look for; each text is a search of its own.")],
    top: Annotated[int, typer.Option(min=1, help="Clips for each text.")] = 10,
    model: Annotated[
        str | None, typer.Option(help="The checkpoint that made the file. Default: where it was then.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the clips of an embedded collection that are nearest to a text, with scores (cosines) and times.

    atr search recordings.npz "a dog barks" "rain on a roof" --top 5

    atr search recordings.parquet "glass breaks" --model best.ckpt --json
    """
    from atr.search import print_hits, search_file

    found = search_file(embeddings, texts, top, model)
    if as_json:
        rows = [
            {"text": text, "hits": [{"rank": rank} | hit._asdict() for rank, hit in enumerate(hits, 1)]}
            for text, hits in zip(texts, found, strict=True)
        ]
        print(json.dumps(rows, indent=2))
    else:
        print_hits(texts, found)


@use.command()
def caption(
    checkpoint: Annotated[str, typer.Argument(help="A .ckpt or .safetensors of a captioning run.")],
    places: Places,
    out: Annotated[
        Path | None, typer.Option(help="csv file to write id, caption into. Default: lines are shown.")
    ] = None,
    times: Annotated[
        bool, typer.Option("--times", help="A caption for each window: id, start, end (s), caption.")
    ] = False,
    method: Annotated[str, typer.Option(help="beam, greedy or nucleus.")] = "beam",
    beams: Annotated[int, typer.Option(help="Of beam.")] = 5,
    top_p: Annotated[
        float, typer.Option(help="Of nucleus: draw from the likeliest tokens that have this share.")
    ] = 0.9,
    temperature: Annotated[float, typer.Option(help="Of nucleus: logits are divided by it.")] = 1.0,
    candidates: Annotated[
        int, typer.Option(help="More than 1: beams or draws, of which the one nearest to the sound is kept.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of nucleus.")] = 0,
    max_tokens: Annotated[int | None, typer.Option(help="Longest caption. Default: as in training.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: fewer words stand twice in a caption.")] = 1.0,
    no_repeat_ngram: Annotated[int, typer.Option(help="So many tokens in a row never stand twice; 0: they may.")] = 0,
    batch: Annotated[int, typer.Option(help="Captions decoded together.")] = 16,
    quiet: Quiet = False,
) -> None:
    """Say in words what is heard. Stopped or killed, the same command with --out goes on.

    What cannot be read is listed; the exit status is then 1.

        atr caption last.ckpt street.wav dog.ogg

        atr caption last.ckpt recordings/ --out captions.csv --candidates 5

        atr caption last.ckpt recordings/ --times --out events.csv --method nucleus --top-p 0.8 --seed 1
    """
    from atr.caption_places import caption_places
    from atr.inference import some
    from atr.models.decode import Decoding

    settings: dict[str, Any] = {
        "method": method, "beams": beams, "top_p": top_p, "temperature": temperature, "candidates": candidates,
        "seed": seed, "max_tokens": max_tokens, "repetition_penalty": repetition_penalty,
        "no_repeat_ngram": no_repeat_ngram,
    }  # fmt: skip
    try:
        done = caption_places(checkpoint, places, out, Decoding(**settings), times, batch, not quiet)
    except KeyboardInterrupt:
        if out is not None:
            print("stopped; the same command goes on where it was", file=sys.stderr)
        raise
    for remark, about in done.remarks().items():
        warnings.warn(f"{some(about)}: {remark}", stacklevel=1)
    if out is not None:
        print(f"{len(done.sounds)} clips: {out}")
    for sound in done.sounds if out is None else []:
        for start, end, text in sound.captions:
            print(f"{sound.name}  {start:.2f}-{end:.2f} s  {text}" if times else f"{sound.name}  {text}")
    _list_bad(done.bad)


def _list_bad(bad: Sequence[BadSample]) -> None:
    """Names what could not be used, and ends with exit status 1 if there is anything."""
    from atr.embed import named

    if not bad:
        return
    print(f"{sum(one.clips for one in bad)} could not be used:", file=sys.stderr)
    for one in bad[:SHOWN]:
        print(f"  {named(one)}", file=sys.stderr)
    if len(bad) > SHOWN:
        print(f"  and {len(bad) - SHOWN} more", file=sys.stderr)
    raise typer.Exit(1)
