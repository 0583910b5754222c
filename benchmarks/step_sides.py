"""The sides of step.py: the same model by this project, by `transformers` and by open_clip (audio tower only)."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atr.config import build, compose_config
from atr.losses import info_nce
from atr.models.clap import Clap
from atr.models.compute import fast_cpu, set_compute
from atr.models.htsat import HTSAT, SpecAugment
from atr.models.mel import LogMel
from atr.models.text import TextEncoder, Tokenizer
from atr.pipeline.audio import INT16_PEAK

ROBERTA_BASE = {
    "model_type": "roberta", "vocab_size": 50_265, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}  # fmt: skip


class Side:
    """What all sides share: the data, the clock and the memory.

    Args:
        batch: clips of a step. captions: taken batch by batch. tokenizer: folder. threads: of a CPU.
        compiled: both towers by torch.compile.
    """

    model: Any
    optimizer: torch.optim.Optimizer

    def __init__(self, batch: int, captions: list[str], tokenizer: str, threads: int, compiled: bool = False) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.batch, self.captions, self.compiled = batch, captions, compiled
        self.tokenizer = Tokenizer(tokenizer)
        self.waveform = (3000 * torch.randn(batch, 480_000)).to(torch.int16).to(self.device)
        self.settings: Any = None
        self.start()
        self.model.to(self.device).train()

    def start(self) -> None:
        """Builds the model and the optimizer."""
        raise NotImplementedError

    def loss(self, tokens: dict[str, Tensor], from_waveform: bool) -> Tensor:
        """Forward pass of a step."""
        raise NotImplementedError

    def tokens(self, number: int, longest: bool) -> dict[str, Tensor]:
        """The step's captions, padded to the longest or to 77."""
        first = number * self.batch % max(1, len(self.captions) - self.batch + 1)
        tokens = self.tokenizer.inner(
            self.captions[first : first + self.batch], padding=True if longest else "max_length", max_length=77,
            truncation=True, return_tensors="pt",
        )  # fmt: skip
        return {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}

    def timed(self, precision: str, work: Callable[[], Tensor], learn: bool) -> float:
        """Seconds of forward, backward and, to `learn`, the optimizer."""
        self._wait()
        began = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = work()
        loss.backward()
        if learn:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self._wait()
        return time.perf_counter() - began

    def step(self, number: int, precision: str, longest: bool, from_waveform: bool = False, repeat: int = 1) -> float:
        """Seconds of whole training steps."""
        tokens = self.tokens(number, longest)
        return sum(self.timed(precision, lambda: self.loss(tokens, from_waveform), True) for _ in range(repeat))

    def flops(self) -> int:
        """FLOPs of a step, counted; without optimizer."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.timed("bf16", lambda: self.loss(self.tokens(0, True), False), False)
        return counter.get_total_flops()

    def peak(self) -> float:
        """MB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

    def set_process(self) -> None:
        """What training sets for a CPU's process."""
        if self.device.type == "cpu":
            self.settings = fast_cpu()  # kept: its end would undo it
            self.settings.__enter__()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Ours(Side):
    """This project."""

    model: Clap

    def start(self) -> None:  # noqa: D102
        self.set_process()
        text = TextEncoder(self.tokenizer, config=ROBERTA_BASE)
        self.model = Clap(LogMel(), HTSAT(spec_augment=SpecAugment()), text)
        self.scale = nn.Parameter(torch.tensor(2.66, device=self.device))
        set_compute(self.model, compile=self.compiled)
        optimizer = build(compose_config(["optimizer=adam"]).optimizer)
        self.optimizer = optimizer([*self.model.to(self.device).parameters(), self.scale])

    def loss(self, tokens: dict[str, Tensor], from_waveform: bool) -> Tensor:  # noqa: D102
        audio, text = self.model.encode_audio(self.waveform), self.model.encode_text(**tokens)
        excluded = torch.zeros(len(audio), len(audio), dtype=torch.bool, device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            return info_nce(audio, text, self.scale, excluded)

    def audio(self, number: int, precision: str) -> float:
        """Seconds of the audio tower from the waveform on."""
        return self.timed(precision, lambda: self.model.encode_audio(self.waveform).square().mean(), False)

    def text(self, number: int, precision: str, longest: bool) -> float:
        """Seconds of the text tower."""
        tokens = self.tokens(number, longest)
        return self.timed(precision, lambda: self.model.encode_text(**tokens).square().mean(), False)


class Transformers(Side):
    """`ClapModel`, as large as laion/clap-htsat-unfused."""

    def start(self) -> None:  # noqa: D102
        from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

        self.model = ClapModel(ClapConfig())
        self.model.to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.extractor = ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")
        self.is_longer = torch.zeros(self.batch, 1, dtype=torch.bool, device=self.device)
        self.ready = self.features()

    def features(self) -> Tensor:
        """Its extractor's mel features of the waveform."""
        clips = list((self.waveform.float() / INT16_PEAK).cpu().numpy())
        found = self.extractor(clips, sampling_rate=48_000, return_tensors="pt")["input_features"]
        return found.to(self.device)

    def loss(self, tokens: dict[str, Tensor], from_waveform: bool) -> Tensor:  # noqa: D102
        features = self.features() if from_waveform else self.ready
        return self.model(**tokens, input_features=features, is_longer=self.is_longer, return_loss=True).loss

    def text(self, number: int, precision: str, longest: bool) -> float:
        """Seconds of the text tower."""
        tokens = self.tokens(number, longest)
        work = lambda: self.model.get_text_features(**tokens).pooler_output.float().square().mean()  # noqa: E731
        return self.timed(precision, work, False)


class OpenClip(Side):
    """open_clip's HTSAT-tiny with its projection; in its main branch, not in release 3.3."""

    def start(self) -> None:  # noqa: D102
        self.model = nn.Identity()
        self.optimizer = torch.optim.SGD([torch.zeros(1)])

    def audio(self, number: int, precision: str) -> float:
        """Seconds of the audio tower from the waveform on.

        Raises:
            ImportError: there is no open_clip with an audio tower.
        """
        if isinstance(self.model, nn.Identity):
            self.model = open_clip_tower().to(self.device).train()
            self.optimizer = torch.optim.SGD(self.model.parameters())
        batch = {"waveform": self.waveform.float() / INT16_PEAK}
        batch["longer"] = torch.zeros(self.batch, 1, dtype=torch.bool, device=self.device)
        return self.timed(precision, lambda: self.model(batch).float().square().mean(), False)


def open_clip_tower() -> nn.Module:
    """The audio tower of open_clip's CLAP-HTSAT-tiny-Roberta-base."""
    from open_clip.audio.tower import AudioTower
    from open_clip.factory import get_model_config

    settings = get_model_config("CLAP-HTSAT-tiny-Roberta-base")
    return AudioTower(settings["audio_cfg"], settings["embed_dim"])


SIDES: dict[str, type[Side]] = {"atr": Ours, "transformers": Transformers, "open_clip": OpenClip}
