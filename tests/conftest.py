"""What the tests share: generated sound, shards of it by the real writer, and a very small model."""

import os
import signal
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it to what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"  # a download fails at once instead of waiting
os.environ["WANDB_MODE"] = "offline"

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import DictConfig

from atr.config import compose_config
from atr.experiment import train
from atr.models.text import Tokenizer
from atr.shards.write import write_shards
from atr.types import Clip

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
NOTES = [
    "do",
    "re",
    "mi",
    "fa",
    "sol",
    "la",
    "ti",
    "low",
    "high",
    "soft",
    "deep",
    "bright",
    "long",
    "short",
    "round",
    "flat",
]

# A model that trains in seconds: 1 s at 16 kHz, 32 mels, 16 x 16 patches, widths 16 to 64.
TINY = [
    "model/mel=demo_32k", "model.mel.sample_rate=16000", "model.mel.seconds=1.0", "model.mel.n_fft=512",
    "model.mel.hop=160", "model.mel.n_mels=32", "model.mel.frequency_max=8000",
    "model/audio=htsat_demo", "model.audio.picture_size=64", "model.audio.embed_dim=16", "model.audio.depths=[1,2,1]",
    "model.audio.heads=[1,2,4]", "model.audio.spec_augment.time_width=8", "model.audio.spec_augment.mel_width=4",
    "model/text=roberta_demo", "model.text.config.hidden_size=32", "model.text.config.num_hidden_layers=1",
    "model.text.config.num_attention_heads=2", "model.text.config.intermediate_size=32", "model.dim=32",
    "model.text.config.initializer_range=0.06", "model.text.config.hidden_dropout_prob=0.1",
    "model.text.config.attention_probs_dropout_prob=0.1", "model.text.pooling=mean",
]  # fmt: skip


def tone(hertz: float, seconds: float = 1.0, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """A decaying tone with its octave: float32 `(frames,)` or `(frames, channels)`."""
    time = np.arange(round(seconds * rate)) / rate
    wave = np.exp(-time) * (0.4 * np.sin(2 * np.pi * hertz * time) + 0.1 * np.sin(4 * np.pi * hertz * time))
    wave = wave.astype(np.float32)
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


def make_clips(folder: Path, count: int = 16) -> list[Clip]:
    """Clips of different tones, each with two captions of its own and one of two labels."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for number in range(count):
        path = folder / f"note{number:02d}.wav"
        soundfile.write(path, tone(200 * 1.18**number, seconds=1.0 + 0.05 * number), 16_000)
        name = NOTES[number % len(NOTES)]
        clips.append(
            Clip(
                id=path.stem, audio=str(path), captions=[f"a {name} note", f"the {name} tone rings"],
                labels=["low_note" if number < count // 2 else "high_note"], title=name, source=f"source{number}",
            )
        )  # fmt: skip
    return clips


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return make_clips(tmp_path / "sounds")


@pytest.fixture
def shards(tmp_path: Path, clips: list[Clip]) -> Path:
    """A folder with one shard of 16 clips."""
    write_shards(clips, tmp_path / "shards", codec="flac")
    return tmp_path / "shards"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(str(ROOT / "data" / "tokenizer"))


@pytest.fixture
def tiny(tmp_path: Path, shards: Path) -> "Compose":
    return Compose(tmp_path / "run", shards)


class Compose:
    """Composes a configuration of the tiny model on the tone shards."""

    def __init__(self, run_dir: Path, shards: Path) -> None:
        self.run_dir, self.shards = run_dir, shards

    def __call__(self, *overrides: str) -> DictConfig:
        own = [
            f"run_dir={self.run_dir}", f"data.train=[{self.shards}]", f"data.test=[{self.shards}]",
            "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=2", "trainer.accelerator=cpu",
            "trainer.precision=32-true", "schedule.warmup_steps=2", "augment=none",
            "loss.exclude=[caption,clip]", "checkpoint.every_n_epochs=1",
        ]  # fmt: skip
        return compose_config([*TINY, *own, *overrides])


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny model, trained a little, once for all tests that only use it."""
    folder = tmp_path_factory.mktemp("trained")
    write_shards(make_clips(folder / "sounds"), folder / "shards", codec="flac", progress=False)
    train(Compose(folder / "run", folder / "shards")("trainer.max_epochs=4"))
    return folder / "run" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def captioning(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny captioner on the tiny model, trained for one step."""
    from tests.captions import compose  # which stands on this module

    folder, shards = tmp_path_factory.mktemp("captioning"), trained.parent.parent.parent / "shards"
    more = ["captioner.language_model.tokenizer.max_tokens=12", "trainer.max_epochs=1", "data.batch_size=16"]
    train(compose(trained, folder / "run", shards, "+captioner.language_model.config.initializer_range=0.3", *more))
    return folder / "run" / "checkpoints" / "last.ckpt"


@pytest.fixture(autouse=True)
def _same_threads() -> None:
    torch.set_num_threads(2)
