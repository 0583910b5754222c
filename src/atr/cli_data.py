"""The verbs of the data: `atr corpora | prepare | shard | check | leaks | stats`; argument parsing only."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from atr.errors import UsageError

data = typer.Typer()
Codec = Annotated[str, typer.Option(help="flac, wav (16 bits), ogg, opus (lossy), or keep: the files as they are.")]
Rate = Annotated[int | None, typer.Option(min=1, help="Hz to convert to. Default: each file's own.")]
ShardSize = Annotated[int, typer.Option(min=1, help="Clips in a shard.")]
MaxSeconds = Annotated[float | None, typer.Option(help="Longer clips are cut off there, s.")]
Exclude = Annotated[
    list[Path] | None, typer.Option(help="List of sources to leave out (WavCaps' json, or text); may be repeated.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per processor.")]
Backend = Annotated[str, typer.Option(help="local, or ray: on the cluster that Ray finds.")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable numbers instead of a table.")]


@data.command()
def corpora(
    name: Annotated[str, typer.Argument(help="A corpus; nothing for the list of them.")] = "",
) -> None:
    """List the corpora that `atr prepare` knows, or print what one should know of one.

    atr corpora

    atr corpora clotho
    """
    from atr.datasets.prepare import print_card, print_corpora

    if name:
        print_card(name)
    else:
        print_corpora()


@data.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="A corpus of `atr corpora`.")],
    root: Annotated[Path, typer.Option(help="The publisher's files; your folder or table.")],
    out: Annotated[Path, typer.Option(help="Each split gets a folder of its own here.")],
    split: Annotated[
        list[str] | None, typer.Option(help="Prepare this split only; may be repeated. Default: all.")
    ] = None,
    audio_dir: Annotated[
        Path | None, typer.Option(help="Where the sound files are (at any depth). Default: below the root.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="First fetch what the publisher offers.")] = False,
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Only write manifests; read no sound.")] = False,
    codec: Codec = "flac",
    sample_rate: Rate = None,
    clips_per_shard: ShardSize = 512,
    max_seconds: MaxSeconds = None,
    exclude: Exclude = None,
    column: Annotated[
        list[str] | None, typer.Option(help="FIELD=COLUMN of your own table, e.g. caption=text; may be repeated.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of your own table, e.g. cp949, latin-1.")] = "utf-8",
    workers: Workers = None,
    backend: Backend = "local",
    as_json: Json = False,
) -> None:
    """Turn a corpus into shards with manifest, index and summary. Stopped or killed, the same command goes on.

    atr prepare clotho --root raw/clotho --out data/clotho --download

    atr prepare audiocaps --root raw/audiocaps --audio-dir youtube/ --out data/audiocaps --sample-rate 48000

    atr prepare csv --root mine.csv --column audio=path --column caption=text --out data/mine
    """
    from atr.datasets.prepare import Settings, prepare_corpus, print_prepared

    columns = dict(_pair(text) for text in column or [])
    settings = Settings(
        codec=codec,
        sample_rate=sample_rate,
        clips_per_shard=clips_per_shard,
        max_seconds=max_seconds,
    )
    if download:
        from atr.datasets.corpus import find_corpus
        from atr.datasets.download import download as fetch

        fetch(find_corpus(corpus).CARD, root)
    done = prepare_corpus(
        corpus, root, out, settings, splits=split or [], audio_dir=audio_dir, columns=columns, encoding=encoding,
        exclude=exclude or [], tables_only=tables_only, workers=workers, backend=backend,
    )  # fmt: skip
    if as_json:
        print(json.dumps({one.split: one.summary or {"problem": one.problem} for one in done}, indent=2))
    else:
        print_prepared(done)
    if any(one.problem and not one.missing for one in done):
        raise typer.Exit(1)


@data.command()
def shard(
    manifest: Annotated[Path, typer.Argument(help="JSONL, a clip in each line; README, Manifests.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    codec: Codec = "flac",
    sample_rate: Rate = None,
    clips_per_shard: ShardSize = 512,
    max_seconds: MaxSeconds = None,
    exclude: Exclude = None,
    workers: Workers = None,
    backend: Backend = "local",
    as_json: Json = False,
) -> None:
    """Turn a manifest into shards. Stopped or killed, the same command goes on.

    atr shard data/clotho/train/manifest.jsonl --out data/clotho_32k/train --sample-rate 32000
    """
    from atr.datasets.prepare import Settings, print_prepared, shard_manifest

    settings = Settings(
        codec=codec,
        sample_rate=sample_rate,
        clips_per_shard=clips_per_shard,
        max_seconds=max_seconds,
    )
    done = shard_manifest(manifest, out, settings, exclude=exclude or [], workers=workers, backend=backend)
    if as_json:
        print(json.dumps(done.summary, indent=2))
    else:
        print_prepared([done])


@data.command()
def check(
    shards: Annotated[list[str], typer.Argument(help="Shard folders or tars.")],
    min_seconds: Annotated[float, typer.Option(min=0.0, help="Shorter sound is too short, s.")] = 0.1,
    sample_rate: Annotated[
        int | None, typer.Option(min=1, help="Rate that all should have, Hz. Default: most samples'.")
    ] = None,
    allow: Annotated[list[str] | None, typer.Option(help="Kind that is no problem; may be repeated.")] = None,
    strict: Annotated[list[str] | None, typer.Option(help="Kind that is a problem; may be repeated.")] = None,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Have the loader leave out what is bad.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write all findings into, as JSON.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per processor.")] = None,
    as_json: Json = False,
) -> None:
    """Decode every sample of shards and name what is wrong; exit status 1 when there is a problem.

    Kinds, problems first: unreadable, not-finite, silent, too-short, no-caption, not-utf8, duplicate-audio,
    overlap, wrong-rate, clipped, same-source.

    atr check data/mine/train data/mine/test

    atr check data/mine/train --sample-rate 48000 --allow no-caption --strict clipped --out findings.json

    atr check data/mine/train --quarantine
    """
    from atr.shards.check import check_shards, print_report, write_report

    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: its folder does not exist; make it first")
    report = check_shards(shards, min_seconds, sample_rate, allow or [], strict or [], quarantine, workers)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        print_report(report)
    if out is not None:
        write_report(report, out)
    if report.bad:
        raise typer.Exit(1)


@data.command()
def leaks(
    train: Annotated[str, typer.Argument(help="Manifest, shard folder or tar to train on.")],
    evaluation: Annotated[list[str], typer.Argument(help="The same, to evaluate on.")],
    by: Annotated[str, typer.Option(help="Kinds of match, separated by commas.")] = "id,source,file,fingerprint",
    exclude: Annotated[
        list[Path] | None, typer.Option(help="List of sources not to train on; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the training clips that are in an evaluation set. Exit status 1 when there are any.

    `fingerprint` compares the sound itself; what it hears of a shard is kept beside it.

        atr leaks data/wavcaps/freesound data/clotho/test data/audiocaps/test

        atr leaks train.jsonl test.jsonl --by id,source,file --json

        atr leaks data/wavcaps/freesound data/clotho/test --exclude blacklist_exclude_ub8k_esc50_vggsound.json
    """
    from atr.datasets.overlap import as_json as written
    from atr.datasets.overlap import find_leaks, print_leaks
    from atr.datasets.places import open_place

    kinds = [kind.strip() for kind in by.split(",") if kind.strip()]
    found = find_leaks([open_place(train)], [open_place(place) for place in evaluation], kinds, exclude or [])
    if as_json:
        print(written(found))
    else:
        print_leaks(found, kinds)
    if found.clips:
        raise typer.Exit(1)


@data.command()
def stats(
    places: Annotated[list[str], typer.Argument(help="Manifests (.jsonl), shard folders or tars.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write index.html into: the table and pictures.")] = None,
    as_json: Json = False,
) -> None:
    """Clips, hours, captions, words and environments of manifests and shard folders, a column each.

    atr stats data/audiocaps/train data/clotho/train

    atr stats data/clotho/train/manifest.jsonl --out statistics
    """
    from atr.datasets.manifest import read_clips
    from atr.datasets.places import on_this_machine
    from atr.datasets.statistics import describe
    from atr.datasets.statistics_page import print_statistics, write_page
    from atr.types import BadSample

    bad: dict[str, list[BadSample]] = {place: [] for place in places}
    found = {place: describe(read_clips(on_this_machine(place), ones)) for place, ones in bad.items()}
    if out is not None:
        print(f"page {write_page(out, found, bad)}", file=sys.stderr)
    if as_json:
        rows = {name: one.numbers() | {"bad": len(bad[name])} for name, one in found.items()}
        print(json.dumps(rows, indent=2))
    else:
        print_statistics(found, bad)


def _pair(text: str) -> tuple[str, str]:
    """`caption=text` -> its two sides."""
    field, equals, column = text.partition("=")
    if not (field and equals and column):
        raise UsageError(f"--column {text!r}; write FIELD=COLUMN, e.g. caption=text")
    return field, column
