"""Makes the demo corpus again: python data/make_demo.py ESC10_FOLDER

Reads the publisher's ESC-10 folder (README.txt and ten class folders of ogg files) and writes beside this file
esc10/fold1 … fold5 (shards), esc10/ATTRIBUTION.md and tokenizer/. The clips are converted to 32 kHz and encoded
again, so that the whole corpus stays under 16 MB; the two clips under the Sampling+ licence are left out.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import yaml
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw
from atr.datasets.esc10 import Attribution, read, read_attributions
from atr.shards.write import write_shards
from atr.types import BadSample, Clip

HERE = Path(__file__).parent
SAMPLE_RATE = 32_000  # Hz
VOCABULARY = 600
FOLDS = range(1, 6)
HEAD = """# Attribution of the demo corpus

The sounds in this folder are clips of **ESC-10** by Karol J. Piczak (DOI 10.7910/DVN/YDEPUT,
https://github.com/karoldvl/ESC-10), published under CC BY 3.0 (https://creativecommons.org/licenses/by/3.0/).
Changes: converted to 32 kHz and encoded again as Ogg Vorbis; the two clips under the Sampling+ licence are left
out. The captions are not the publisher's: they were written for this project.

Each clip was cut from a recording on Freesound:

| clip | recording | author | licence |
|---|---|---|---|
"""


def main(root: Path) -> None:
    """Writes shards, attribution and tokenizer."""
    captions = yaml.safe_load((HERE / "captions.yaml").read_text())
    shutil.rmtree(HERE / "esc10", ignore_errors=True)
    raw = Raw(root, AudioFiles(root))
    kept: set[str] = set()
    for fold in FOLDS:
        folder = HERE / "esc10" / f"fold{fold}"
        clips = list(read(raw, folder.name))
        if bad := [one for one in clips if isinstance(one, BadSample)]:
            sys.exit(f"not as published: {bad}")
        chosen = [
            replace(clip, captions=captions[clip.labels[0]])
            for clip in clips
            if isinstance(clip, Clip) and "Sampling+" not in clip.licence
        ]
        kept.update(clip.id for clip in chosen)
        written = write_shards(chosen, folder, codec="ogg", sample_rate=SAMPLE_RATE)
        if written.rejected:
            sys.exit(f"rejected: {written.rejected}")
        print(f"{folder}: {written.clips} clips")
    attributions = [one for one in read_attributions(root) if isinstance(one, Attribution)]
    rows = [
        f"| {a.file.removesuffix('.ogg')} | [{a.title.replace('|', '/')}]({a.url}) | {a.author} | {a.licence} |"
        for a in sorted(attributions, key=lambda one: one.file)
        if a.file.removesuffix(".ogg") in kept
    ]
    (HERE / "esc10" / "ATTRIBUTION.md").write_text(HEAD + "\n".join(rows) + "\n")
    make_tokenizer([text for texts in captions.values() for text in texts], HERE / "tokenizer")


def make_tokenizer(captions: list[str], folder: Path) -> None:
    """A lower-case byte-level BPE with RoBERTa's special tokens and their order."""
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    inner.train_from_iterator(captions, trainer)
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        unk_token="<unk>", pad_token="<pad>", mask_token=AddedToken("<mask>", lstrip=True), model_max_length=77,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
