"""A captioner in seconds, on the tiny contrastive checkpoint of `conftest.trained`."""

from pathlib import Path

from omegaconf import DictConfig

from atr.config import compose_config
from atr.types import Clip
from tests.conftest import make_clips

SMALL_GPT2 = (
    "captioner/language_model=gpt2_demo", "captioner.language_model.config.n_embd=32",
    "captioner.language_model.config.n_layer=1", "captioner.language_model.config.n_head=2",
)  # fmt: skip


def overrides(base: Path | str, run_dir: Path, shards: Path) -> list[str]:
    """Trains 3 epochs of 2 steps on 16 tones; with weight decay, and the language model's dropout."""
    return [
        "captioner=prefix", "captioner.mapping.prefix_length=4", f"init={base}", f"run_dir={run_dir}",
        f"data.train=[{shards}]", "data.test=[]", "data.batch_size=8", "data.num_workers=0", "data.crop=first",
        "trainer.max_epochs=3", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.log_every_n_steps=1",
        "trainer.enable_progress_bar=false", "schedule.warmup_steps=2", "augment=none", "masking=none",
        "optimizer=adamw", "optimizer.lr=1e-2",
    ]  # fmt: skip


def compose(
    base: Path | str, run_dir: Path, shards: Path, *more: str, language: tuple[str, ...] = SMALL_GPT2
) -> DictConfig:
    """A configuration of a captioning run."""
    return compose_config([*overrides(base, run_dir, shards), *language, *more])


def few_clips(folder: Path) -> list[Clip]:
    """Clips for a validation set that the training set has not."""
    return make_clips(folder, 20)[16:]
