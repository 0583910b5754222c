"""Encoding a set: each clip and each distinct caption once, over all ranks, whatever comes with it."""

import socket
from collections import Counter
from dataclasses import replace

import pytest
import torch

import atr
from atr.evaluation import encode
from atr.evaluation.encode import encode_texts
from atr.shards.write import write_shards
from tests.conftest import make_clips
from tests.evaluation.ranks_child import TEXTS_AT_ONCE, validate_alone_and_together

CLIPS = 11  # 6 and 5, in batches of 2, 2, 2 and 2, 2, 1


@pytest.fixture(scope="module")
def ranks(trained, tmp_path_factory):
    """What one process and two made of a set whose captions are shared by clips of both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    clips = make_clips(folder / "sounds", CLIPS)
    clips = [
        replace(clip, captions=[*clip.captions, clips[(n + 5) % CLIPS].captions[0]]) for n, clip in enumerate(clips)
    ]
    clips[3] = replace(clips[3], captions=[])
    write_shards(clips, folder / "shards", codec="flac", progress=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(validate_alone_and_together, args=(str(folder), str(trained), port), nprocs=2)
    captions = {caption for clip in clips for caption in clip.captions}
    found = {
        world: [torch.load(folder / f"{world}.{rank}.pt", weights_only=True) for rank in range(world)]
        for world in (1, 2)
    }
    return found, captions


def captions_of(rank, captions):
    """The captions among the texts that a rank has encoded; the others are prompts."""
    return Counter(text for texts in rank["texts"] for text in texts if text in captions)


@pytest.mark.parametrize("world", [1, 2])
def test_each_clip_and_each_distinct_caption_is_encoded_once_over_all_ranks(ranks, world):
    found, captions = ranks
    assert sum(sum(rank["clips"]) for rank in found[world]) == CLIPS
    together = sum((captions_of(rank, captions) for rank in found[world]), Counter())
    assert together == Counter(dict.fromkeys(captions, 1)) and len(captions) > 4 * TEXTS_AT_ONCE
    if world == 2:
        assert [rank["clips"] for rank in found[2]] == [[2, 2, 2], [2, 2, 1]]
        shares = [captions_of(rank, captions).total() for rank in found[2]]
        assert max(shares) - min(shares) <= TEXTS_AT_ONCE


def test_two_ranks_validate_as_one(ranks):
    """Captions are in the same batches and come out bit for bit; clips are in other batches."""
    found, _ = ranks
    (one,) = found[1]
    place = {key: row for row, key in enumerate(one["keys"])}
    for rank in found[2]:
        assert sorted(rank["keys"]) == sorted(place) and len(place) == CLIPS
        rows = [place[key] for key in rank["keys"]]
        assert (rank["audio"] - one["audio"][rows]).abs().max() < 2e-6
        assert rank["numbers"] == found[2][0]["numbers"]
        assert {row.numpy().tobytes() for row in rank["text"]} == {row.numpy().tobytes() for row in one["text"]}
        assert rank["numbers"].keys() == one["numbers"].keys()
        for name, value in one["numbers"].items():
            assert rank["numbers"][name] == pytest.approx(value, abs=1e-9), name
    assert one["numbers"]["validation/retrieval/a2t/queries"] == CLIPS - 1
    assert one["numbers"]["validation/retrieval/t2a/candidates"] == CLIPS


def test_a_caption_gets_the_same_embedding_in_any_order(trained, monkeypatch):
    monkeypatch.setattr(encode, "TEXTS_AT_ONCE", 3)
    clap = atr.load(trained).clap
    texts = [
        f"a {word} note" * (1 + number % 3)
        for number, word in enumerate(["low", "high", "soft", "deep", "bright", "long"])
    ]
    device = next(clap.parameters()).device
    there, back = encode_texts(clap, texts, device), encode_texts(clap, texts[::-1], device)
    assert torch.equal(there, back.flip(0)) and len(there.unique(dim=0)) == len(texts)
    assert encode_texts(clap, [], device).shape == (0, clap.dim)
