"""A checkpoint as something to use: `atr.load(path)`."""

import functools
import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from atr.captioning import load_captioner
from atr.checkpoint import build_model, read_checkpoint, use_tokenizer
from atr.errors import DataError, UsageError
from atr.evaluation.encode import check_templates, encode_labels, encode_texts
from atr.frozen import add_tensors
from atr.models.captioner import Captioner
from atr.models.clap import Clap
from atr.shards.progress import clip_bar
from atr.shards.scan import Window as Stretch
from atr.types import BadSample
from atr.windows import Frames, Window, Windows, check_windows, clip_windows, join, join_frames, power

if TYPE_CHECKING:
    from atr.captions import Caption

Sound = str | Path | BinaryIO | tuple[np.ndarray, int]
MOST_CHANNELS = 64  # more are samples `(channels, T)`, whose mean would be no sound
BATCH = 32  # windows encoded together
CAPTIONED = 16  # captions decoded together
DEFAULT_TEMPLATE = "The sound of {label}"  # arXiv 2309.11500


@dataclass(frozen=True)
class Source:
    """A sound that is to be encoded: how messages call it, and what opens it when its turn comes."""

    name: str
    open: Callable[[], Sound | None]


@dataclass
class Heard:
    """What a model made of a clip.

    Attributes:
        name: the source's.
        vectors: of its windows: unit vectors `(D,)`, or of their frames `(N, D)`.
        stretches: start and end of each window, s. powers: mean square of each, of full scale.
        duration: s.
        remarks: what a user should know about the clip.
    """

    name: str
    vectors: list[Tensor] = field(default_factory=list)
    stretches: list[tuple[float, float]] = field(default_factory=list)
    powers: list[float] = field(default_factory=list)
    duration: float = 0.0
    remarks: list[str] = field(default_factory=list)


class Named(Protocol):
    """What was made of a sound: how messages call it, and what a user should know about it."""

    name: str
    remarks: list[str]


Made = TypeVar("Made", bound=Named)


class AudioTextModel:
    """A trained model: sound and text into one space. Deterministic, float32.

    Attributes:
        clap: the torch module.
        seconds, sample_rate: of the window that it listens to at once.
        labels: of the data it was trained on; empty when unknown.
        captioner: writes captions on top of `clap`; None where the checkpoint holds none.
    """

    def __init__(self, clap: Clap, labels: Sequence[str] = (), captioner: Captioner | None = None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.clap = clap.to(self.device).eval()
        self.seconds, self.sample_rate = clap.mel.seconds, clap.mel.sample_rate
        self.labels = list(labels)
        self.captioner = captioner.to(self.device).eval() if captioner is not None else None

    @property
    def fuses(self) -> bool:
        """Whether it takes clips longer than its window as they are (feature fusion)."""
        return bool(getattr(self.clap.audio, "fusion", None))

    @overload
    def encode_audio(
        self,
        sounds: Sound | Sequence[Sound],
        windows: Windows = "mean",
        *,
        frames: Literal[False] = False,
        progress: bool = True,
    ) -> Tensor: ...

    @overload
    def encode_audio(
        self,
        sounds: Sound | Sequence[Sound],
        windows: Windows = "mean",
        *,
        frames: Literal[True],
        progress: bool = True,
    ) -> list[Frames]: ...

    def encode_audio(
        self, sounds: Sound | Sequence[Sound], windows: Windows = "mean", *, frames: bool = False, progress: bool = True
    ) -> Tensor | list[Frames]:
        """Embeds sounds of any length: paths, open files, or `(samples, sample_rate in Hz)`, samples `(T,)` or
        `(T, channels)`.

        Clips shorter than the model's window are padded as in training. Longer ones are covered by windows
        (`atr.windows`), and files are decoded as they are needed, `BATCH` windows at a time.

        Args:
            windows: what stands for a longer clip: `mean` of its windows, their mean by `energy`, their `max` in each
                dimension, the `first` window alone, or `fusion`: the clip as a whole, for models with feature fusion.
            frames: embeddings along time instead (32 for a window of CLAP's encoder), projected as clips are.
            progress: shows a bar on a terminal (stderr) where there are more than `BATCH` sounds.

        Returns:
            `(N, D)`, unit norm, float32, on the CPU; with `frames` a `Frames` for each sound.

        Raises:
            DataError: a sound cannot be read, is empty or holds NaN; the message names it.
            UsageError: there are no such windows, or the model has no fusion.
        """
        check_windows(windows, self.fuses)
        if frames and windows == "fusion":
            raise UsageError("frames=True needs windows; windows='fusion' makes one vector of the whole clip")
        done: list[Tensor] = []
        along_time: list[Frames] = []
        encode = functools.partial(self.encode_sources, windows=windows, encode=self._encode_frames if frames else None)
        for heard in made_of(as_list(sounds), encode, progress):
            if frames:
                along_time.append(join_frames(torch.stack(heard.vectors), heard.stretches, self.seconds))
            else:
                done.append(join(torch.stack(heard.vectors), heard.powers, windows))
        if frames:
            return along_time
        return torch.stack(done) if done else torch.zeros(0, self.clap.dim)

    def encode_sources(
        self, sources: Iterable[Source], windows: str, encode: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Heard | BadSample]:
        """Encodes the windows of sounds, `BATCH` at a time across their borders; gives each sound or why it is none.

        In order, and no more of it in memory than the batch and the block that is being decoded.

        Args:
            encode: int16 `(B, T)` -> `(B, …)`: what is to be the vectors of the windows. None: their embeddings.

        Raises:
            UsageError: there are no such windows, or the model has no fusion.
        """
        check_windows(windows, self.fuses, also=["each"])
        size = 1 if windows == "fusion" else BATCH  # whole clips have different lengths
        waiting: deque[Heard | BadSample] = deque()
        batch: list[tuple[Heard, Window]] = []
        for source in sources:
            heard = Heard(source.name)
            waiting.append(heard)
            try:
                for window in self._windows(source, windows, heard.remarks.append):
                    batch.append((heard, window))
                    if len(batch) == size:
                        self._encode(batch, encode or self.clap.encode_audio)
                        batch = []
                        while waiting[0] is not heard:
                            yield waiting.popleft()
            except DataError as error:
                waiting[-1] = BadSample(source.name, str(error))
                batch = [one for one in batch if one[0] is not heard]
        if batch:
            self._encode(batch, encode or self.clap.encode_audio)
        yield from waiting

    @torch.inference_mode()
    def _encode(self, batch: list[tuple[Heard, Window]], encode: Callable[[Tensor], Tensor]) -> None:
        """Adds to each clip what its windows of this batch give."""
        waveform = torch.from_numpy(np.stack([window.waveform for _, window in batch])).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            vectors = encode(waveform)
        for (heard, window), vector in zip(batch, vectors.cpu(), strict=True):
            heard.vectors.append(vector)
            heard.stretches.append((window.start, window.end))
            heard.powers.append(power(window.waveform))
            heard.duration = window.duration

    def _encode_frames(self, waveform: Tensor) -> Tensor:
        """int16 `(B, T)` -> embeddings along time, `(B, N, D)`, unit norm."""
        encoded = self.clap.audio.frames(self.clap.mel(waveform))
        return torch.nn.functional.normalize(self.clap.audio_projection(encoded).float(), dim=2)

    def _windows(self, source: Source, windows: str, note: Callable[[str], None]) -> Iterator[Window]:
        sound = source.open()
        if sound is None:
            raise DataError("has no sound file beside its json")
        if isinstance(sound, str | Path) and not Path(sound).is_file():
            raise DataError(": no such file")
        if isinstance(sound, tuple):
            sound = _samples(sound)
        elif not isinstance(sound, str | Path) and not hasattr(sound, "read"):
            raise DataError(
                f"is a {type(sound).__name__}; give a path, an open file, or (samples, rate in Hz) for each sound"
            )
        file = str(sound) if isinstance(sound, Path) else sound
        try:
            yield from clip_windows(file, windows, self.seconds, self.sample_rate, note, self.clap.mel.hop)
        finally:
            stretch = getattr(file, "raw", None)
            if isinstance(stretch, Stretch) and stretch.failed is not None:
                raise stretch.failed  # not what the decoder makes of a shard that seems to end there

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Embeds captions: `(M, D)`, unit norm, float32, on the CPU. A warning counts those that are cut off."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if cut := self.clap.text.tokenizer.too_long(texts):
            limit = self.clap.text.tokenizer.max_tokens
            warnings.warn(
                f"{cut} of {len(texts)} captions are longer than the {limit} tokens that this model reads; "
                "the rest of them is not heard",
                stacklevel=2,
            )
        return encode_texts(self.clap, texts, self.device)

    def similarity(self, audio: Tensor, text: Tensor) -> Tensor:
        """Cosine of embeddings `(N, D)` and `(M, D)`: `(N, M)`."""
        return audio @ text.T

    def classify(
        self, sound: Sound, labels: Sequence[str] = (), template: str = DEFAULT_TEMPLATE
    ) -> list[tuple[str, float]]:
        """The labels, most similar first, each with its cosine.

        Args:
            sound: heard as `encode_audio` does.
            labels: candidates; the training data's when empty.
            template: prompt with `{label}`.

        Raises:
            UsageError: no labels, or a template without `{label}`.
        """
        return self.classify_all([sound], labels, template)[0]

    def classify_all(
        self, sounds: Sequence[Sound], labels: Sequence[str] = (), template: str = DEFAULT_TEMPLATE
    ) -> list[list[tuple[str, float]]]:
        """`classify` for several sounds; labels are embedded once."""
        names, text = self.encode_labels(labels, template)
        return rank_labels(names, self.similarity(self.encode_audio(sounds), text))

    def encode_labels(self, labels: Sequence[str] = (), template: str = DEFAULT_TEMPLATE) -> tuple[list[str], Tensor]:
        """The candidates of a classification, and their prompts' embeddings `(C, D)`.

        Raises:
            UsageError: no labels, or a template without `{label}`.
        """
        if isinstance(labels, str):
            raise UsageError(f"labels is a text; give a list: [{labels!r}]")
        names = list(labels) or self.labels
        if not names:
            raise UsageError(
                "no labels to choose from: this checkpoint knows none, so name some (labels=…, --labels a,b)"
            )
        return names, encode_labels(self.clap, names, check_templates([template]), self.device)

    @overload
    def caption(self, sounds: Sound, times: Literal[False] = False, **how: Any) -> str: ...

    @overload
    def caption(self, sounds: Sound, times: Literal[True], **how: Any) -> "list[Caption]": ...

    @overload
    def caption(self, sounds: list[Any], times: Literal[False] = False, **how: Any) -> list[str]: ...

    @overload
    def caption(self, sounds: list[Any], times: Literal[True], **how: Any) -> "list[list[Caption]]": ...

    def caption(
        self, sounds: Any, times: bool = False, *, batch: int = CAPTIONED, progress: bool = True, **decoding: Any
    ) -> Any:
        """Says in words what is heard: a caption for one sound, a list of them for several.

        For longer sounds than the model's window see `atr.captions.caption_sources`.

        Args:
            sounds: one, or a list, each as `encode_audio` takes it.
            times: a list of (start in s, end in s, caption) for each sound instead, window by window; neighbours with
                the same caption are joined.
            batch: captions decoded together.
            progress: shows a bar on a terminal (stderr) where there are more than `BATCH` sounds.
            decoding: fields of `atr.models.decode.Decoding`: method, beams, top_p, seed, candidates …

        Raises:
            DataError: a sound cannot be read, is empty or holds NaN; the message names it.
            UsageError: the checkpoint holds no captioner, or a setting has no meaning.
        """
        from atr.captions import caption_sources  # which stands on this module
        from atr.models.decode import Decoding

        write = functools.partial(caption_sources, self, decoding=Decoding(**decoding), times=times, batch=batch)
        found = [one.captions if times else one.captions[0].text for one in made_of(as_list(sounds), write, progress)]
        return found[0] if is_one(sounds) else found

    def fingerprint(self) -> str:
        """A hash of all weights, front end and tokenizer: what was embedded by the same model has the same."""
        return fingerprint(self.clap)


def fingerprint(clap: Clap) -> str:
    """A hash of a contrastive model: all weights, front end and tokenizer."""
    digest = hashlib.sha256()
    mel, text, words = clap.mel, clap.text, clap.text.tokenizer
    digest.update(f"{mel.sample_rate} {mel.seconds} {mel.n_fft} {mel.hop} {mel.floor}".encode())
    eps = getattr(text.inner.config, "layer_norm_eps", None)
    digest.update(f" {clap.audio.picture_size} {text.pooling} {eps} {words.max_tokens} ".encode())
    digest.update(repr(sorted(words.inner.get_vocab().items())).encode())
    add_tensors(digest, clap.state_dict() | {"filterbank": mel.filterbank})
    return digest.hexdigest()


def made_of(
    sounds: Sequence[Sound], make: Callable[[list[Source]], Iterator[Made | BadSample]], progress: bool
) -> Iterator[Made]:
    """What is made of each sound, with a bar where there are more than `BATCH`; warns of remarks at the end.

    Raises:
        DataError: a sound cannot be used; the message names it.
    """
    sources = [Source(_name(one, i), functools.partial(_as_is, one)) for i, one in enumerate(sounds)]
    remarks: dict[str, list[str]] = {}
    with clip_bar(len(sources), progress and len(sources) > BATCH) as on_clip:
        for made in make(sources):
            if isinstance(made, BadSample):
                raise DataError(f"{made.key}{'' if made.reason[:1] == ':' else ' '}{made.reason}")
            for remark in made.remarks:
                remarks.setdefault(remark, []).append(made.name)
            yield made
            on_clip()
    for remark, names in remarks.items():
        warnings.warn(f"{some(names)}: {remark}", stacklevel=3)


def some(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def rank_labels(names: Sequence[str], cosine: Tensor) -> list[list[tuple[str, float]]]:
    """For each row of `(N, C)` the labels, most similar first, each with its cosine."""
    order = cosine.argsort(dim=1, descending=True, stable=True).tolist()
    return [[(names[i], float(row[i])) for i in ranks] for row, ranks in zip(cosine, order, strict=True)]


def _as_is(sound: Sound) -> Sound:
    return sound


def _name(sound: Sound, number: int) -> str:
    """How messages call a sound."""
    return str(sound) if isinstance(sound, str | Path) else str(getattr(sound, "name", f"sound {number}"))


def _samples(sound: tuple[Any, Any]) -> tuple[np.ndarray, int]:
    """Samples as float32 in [-1, 1], and their rate.

    Raises:
        DataError: they are no sound, or no rate stands beside them.
    """
    allowed = "give (samples, rate in Hz), samples (T,) or (T, channels)"
    if len(sound) != 2 or not isinstance(sound[1], int | float | np.number) or not 1 <= sound[1] < float("inf"):
        raise DataError(f"has no sample rate beside it; {allowed}")
    samples = np.asarray(sound[0])
    if samples.dtype.kind not in "fiu" or samples.ndim not in (1, 2):
        raise DataError(f"holds {samples.dtype} of shape {samples.shape}; {allowed}")
    if samples.ndim == 2 and samples.shape[1] > MOST_CHANNELS:
        raise DataError(f"has {samples.shape[1]} channels with samples of shape {samples.shape}; {allowed}")
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / np.float32(np.iinfo(samples.dtype).max + 1.0)
    return samples.astype(np.float32, copy=False), int(sound[1])


def as_list(sounds: Sound | Sequence[Sound]) -> list[Sound]:
    """One sound or several as a list."""
    return [sounds] if is_one(sounds) else list(sounds)  # type: ignore[list-item, arg-type]


def is_one(sounds: Sound | Sequence[Sound]) -> bool:
    """Whether this is one sound, and not a list of them."""
    is_array = isinstance(sounds, tuple) and len(sounds) == 2 and isinstance(sounds[0], np.ndarray | Tensor)
    return is_array or isinstance(sounds, np.ndarray | Tensor | str | Path) or hasattr(sounds, "read")


def load(path: str | Path, tokenizer: str | Path | None = None) -> AudioTextModel:
    """Loads a model for use: a checkpoint of this project, contrastive or captioning, or a released CLAP.

    Args:
        path: as `atr.checkpoint.read_checkpoint` takes it: a `.ckpt` or `.safetensors` of training, a folder or hub
            name of `transformers`' `ClapModel`, a `.pt` of LAION-CLAP or Auto-ACD.
        tokenizer: a folder or hub name, for files that carry none (LAION's); roberta-base by default.

    Raises:
        CheckpointError: it is not there or holds no such model.
        UsageError: a tokenizer is given for a model that brings its own.
    """
    checkpoint = read_checkpoint(path)
    use_tokenizer(checkpoint, tokenizer)
    labels = checkpoint.about["labels"]
    if checkpoint.captioner is None:
        return AudioTextModel(build_model(checkpoint), labels)
    captioner = load_captioner(checkpoint)
    return AudioTextModel(captioner.clap, labels, captioner)
