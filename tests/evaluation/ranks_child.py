"""What each of two processes does in the tests of retrieval and of encoding; heavy imports where they are needed."""

import json
import os
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atr.evaluation import places
from atr.evaluation.retrieval import retrieval

TEXTS_AT_ONCE = 4


def unit(rows: int, width: int = 16, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def ragged(clips: int = 60, captions: int = 200, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Captions near their clips; some clips have none, some many; some captions come several times."""
    generator = torch.Generator().manual_seed(seed)
    owner = (torch.rand(captions, generator=generator) ** 2 * clips).long()
    audio = unit(clips, seed=seed + 1)
    text = F.normalize(audio[owner] + 1.2 * unit(captions, seed=seed + 2), dim=1)
    text[captions // 2 :: 7] = text[0]
    return audio, text, owner


def score_shared(rank: int, folder: str) -> None:
    """Scores a set alone, then with the other rank, in small blocks; writes the numbers and the rows it multiplied."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    places.BLOCK_QUERIES = 7
    multiplied, multiply = list[int](), np.matmul

    def counted(one, other, **named):
        multiplied.append(len(one))
        return multiply(one, other, **named)

    np.matmul = counted
    found = {"alone": retrieval(*ragged()), "alone_rows": sum(multiplied)}
    multiplied.clear()
    found |= {"shared": retrieval(*ragged(), None, True), "rows": sum(multiplied)}
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def validate_alone_and_together(rank: int, folder: str, checkpoint: str, port: int) -> None:
    """Rank 0 validates alone first, with as many threads as later, as their number shows in the last bits."""
    from atr.evaluation import encode

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    encode.TEXTS_AT_ONCE = TEXTS_AT_ONCE
    if rank == 0:
        validate(rank, 1, folder, checkpoint)
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    validate(rank, 2, folder, checkpoint)


def validate(rank: int, world: int, folder: str, checkpoint: str) -> None:
    """A validation by Lightning, as one process or as one of two; writes its numbers, and what this rank encoded."""
    import pytorch_lightning as pl

    from atr.checkpoint import build_model, read_checkpoint
    from atr.losses import InfoNCE
    from atr.optim import WarmupCosine
    from atr.pipeline.datamodule import AudioTextData
    from atr.tasks import contrastive

    model = build_model(read_checkpoint(checkpoint))
    tokenizer, encode_audio, score = model.text.tokenizer, model.encode_audio, contrastive.score
    clips, texts, scored = list[int](), list[list[str]](), []
    data = AudioTextData([], f"{folder}/shards", [], tokenizer, 1.0, 16_000, 4, 0, num_workers=0)
    model.encode_audio = lambda waveform: clips.append(len(waveform)) or encode_audio(waveform)
    model.text.tokenizer = lambda captions: texts.append(captions) or tokenizer(captions)
    task = contrastive.ContrastiveTask(model, InfoNCE(), torch.optim.AdamW, WarmupCosine(0), 0, ["{label}"], {})
    trainer = pl.Trainer(
        accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    noting = lambda model, encoded, *more, **named: scored.append(encoded) or score(model, encoded, *more, **named)  # noqa: E731
    with mock.patch.object(contrastive, "score", noting):
        trainer.validate(task, data, verbose=False)
    numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
    keys = [sample.key for sample in scored[0].samples]
    found = {"numbers": numbers, "clips": clips, "texts": texts, "keys": keys}
    torch.save(found | {"audio": scored[0].audio, "text": scored[0].text}, f"{folder}/{world}.{rank}.pt")
