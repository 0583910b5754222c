"""From shards to batches: chance from the seed only, captions, labels, and bad samples that are never lost."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from atr.errors import AtrError, DataError, UsageError
from atr.models.mel import LogMel
from atr.pipeline.datamodule import AudioTextData
from atr.pipeline.mixture import Mixture
from atr.pipeline.pair import PairMix
from atr.pipeline.text import WordMask
from atr.shards.read import ShardSet
from atr.shards.write import write_shards
from atr.types import Batch, Clip
from tests.conftest import tone


def module(shards, tokenizer, **changes):
    settings = {"train": [shards], "validation": [], "test": [shards], "seconds": 1.0, "sample_rate": 16_000,
                "batch_size": 4, "seed": 0, "num_workers": 0, "tokenizer": tokenizer}  # fmt: skip
    return AudioTextData(**settings | changes)


def epoch(data, number=0) -> list[Batch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


def equal(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
        if isinstance(a, torch.Tensor)
    )


def add_to_tar(tar_path, members):
    (tar_path.with_suffix(".index.json")).unlink(missing_ok=True)
    with tarfile.open(tar_path, "a") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def wav(samples, rate=16_000, subtype="FLOAT"):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="WAV", subtype=subtype)
    return stream.getvalue()


def test_a_training_batch_has_one_caption_per_clip(shards, tokenizer):
    batch = epoch(module(shards, tokenizer))[0]
    assert batch.waveform.shape == (4, 16_000) and batch.waveform.dtype == torch.int16
    assert batch.input_ids.shape == batch.attention_mask.shape and len(batch.input_ids) == 4
    assert batch.attention_mask.sum(dim=1).max() == batch.input_ids.shape[1]  # padded to the longest
    assert len(set(batch.clip_id.tolist())) == 4 and len(set(batch.label_id.tolist())) <= 2
    assert all(len(sample.captions) == 1 for sample in batch.samples)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(shards, tokenizer, workers):
    settings = {"word_mask": WordMask(0.5)}
    alone, many = (
        epoch(module(shards, tokenizer, **settings)),
        epoch(module(shards, tokenizer, num_workers=workers, **settings)),
    )
    assert len(alone) == len(many) == 4
    assert all(equal(a, b) for a, b in zip(alone, many, strict=True))


def test_seed_and_epoch_decide_everything(shards, tokenizer):
    settings = {"word_mask": WordMask(0.5)}
    first = epoch(module(shards, tokenizer, **settings))
    assert all(equal(a, b) for a, b in zip(first, epoch(module(shards, tokenizer, **settings)), strict=True))
    assert not equal(first[0], epoch(module(shards, tokenizer, **settings), number=1)[0])
    assert not equal(first[0], epoch(module(shards, tokenizer, seed=1, **settings))[0])


def test_captions_are_drawn_at_random_over_the_epochs(shards, tokenizer):
    data = module(shards, tokenizer, batch_size=16)
    drawn = [s.captions[0] for number in range(20) for s in epoch(data, number)[0].samples if s.key.endswith("note00")]
    assert set(drawn) == {"a do note", "the do tone rings"}
    assert 4 <= drawn.count("a do note") <= 16


def test_an_evaluation_batch_has_all_captions_unmasked(shards, tokenizer):
    data = module(shards, tokenizer, word_mask=WordMask(1.0))
    batches = list(data.evaluation_loader("test"))
    assert [len(batch.samples) for batch in batches] == [4, 4, 4, 4]
    assert len(batches[0].input_ids) == len(batches[0].caption_id) == 8
    assert batches[0].samples[0].spoken == ["a do note", "the do tone rings"]


def test_masked_words_reach_the_tokens_but_not_the_caption_id(shards, tokenizer):
    plain, masked = epoch(module(shards, tokenizer))[0], epoch(module(shards, tokenizer, word_mask=WordMask(0.9)))[0]
    mask = tokenizer.inner.mask_token_id
    assert (masked.input_ids == mask).sum() > 4 and (plain.input_ids == mask).sum() == 0
    assert torch.equal(masked.caption_id, plain.caption_id)


def test_labels_can_be_left_out_of_training_and_the_test_cut_down(shards, tokenizer):
    data = module(shards, tokenizer, exclude_labels=["low_note"], only_labels=["low_note"])
    assert {label for batch in epoch(data) for sample in batch.samples for label in sample.labels} == {"high_note"}
    assert {s.labels[0] for batch in data.evaluation_loader("test") for s in batch.samples} == {"low_note"}
    with pytest.raises(DataError, match="no clip has the label 'rain'; labels in the data: high_note, low_note"):
        module(shards, tokenizer, exclude_labels=["rain"])


BAD = {
    "empty": (wav(np.zeros(0)), {"text": ["x"]}, "holds no samples"),
    "nan": (wav(np.full(9, np.nan, np.float32)), {"text": ["x"]}, "NaN"),
    "noise": (b"no sound at all", {"text": ["x"]}, "cannot be decoded"),
    "mute": (wav(tone(300)), {"text": [], "tag": []}, "caption"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_sample_is_replaced_in_training_skipped_in_evaluation_and_named(shards, tokenizer, kind):
    sound, meta, reason = BAD[kind]
    add_to_tar(shards / "00000.tar", [(f"{kind}.wav", sound), (f"{kind}.json", json.dumps(meta).encode())])
    data = module(shards, tokenizer)
    assert len(data.sets["train"]) == 17
    bad = {}
    for number in range(8):
        for batch in epoch(data, number):
            assert len(batch.samples) == 4
            bad |= {one.key: one.reason for one in batch.bad}
    name = f"{shards}/00000.tar:{kind}"
    assert list(bad) == [name] and reason in bad[name]
    batches = list(data.evaluation_loader("test"))
    assert sum(len(batch.samples) for batch in batches) == 16
    assert [one.key for batch in batches for one in batch.bad] == [name]


def test_a_sample_without_sound_is_bad(shards, tokenizer):
    add_to_tar(shards / "00000.tar", [("lonely.json", b'{"text": ["x"]}')])
    bad = [one for batch in module(shards, tokenizer).evaluation_loader("test") for one in batch.bad]
    assert bad[0].key.endswith("00000.tar:lonely") and "no sound file" in bad[0].reason


def test_a_set_without_any_usable_sample_is_refused(tmp_path, tokenizer):
    (tmp_path / "bad").mkdir()
    with tarfile.open(tmp_path / "bad" / "0.tar", "w"):
        pass
    add_to_tar(tmp_path / "bad" / "0.tar", [(f"{i}.{s}", b"{}") for i in range(4) for s in ("json", "wav")])
    with pytest.raises(DataError, match=r"10 clips in a row cannot be used; the first is .*bad/0\.tar:"):
        epoch(module(tmp_path / "bad", tokenizer))


def test_clipped_samples_are_counted(shards, tokenizer):
    def loud(samples, sample_rate):
        return samples * 10

    assert epoch(module(shards, tokenizer, transform=loud))[0].clipped > 100
    assert epoch(module(shards, tokenizer))[0].clipped == 0


def test_a_broken_json_is_one_bad_sample_and_no_more(shards, tokenizer):
    add_to_tar(shards / "00000.tar", [("broken.wav", wav(tone(300))), ("broken.json", b"{no json")])
    data = module(shards, tokenizer, exclude_labels=["low_note"])
    assert data.labels() == ["high_note"]
    bad = [one for batch in data.evaluation_loader("test") for one in batch.bad]
    assert [one.key.split(":")[1] for one in bad] == ["broken"] and "its json cannot be read" in bad[0].reason


def test_one_folder_may_be_given_without_brackets(shards, tokenizer):
    assert len(module(str(shards), tokenizer, train=str(shards)).sets["train"]) == 16


def test_equal_keys_in_two_corpora_are_two_clips(tmp_path, clips, tokenizer):
    for corpus in "ab":
        write_shards(clips[:2], tmp_path / corpus / "train", codec="flac")
    data = module("", tokenizer, train=[tmp_path / "a" / "train", tmp_path / "b" / "train"], test=[])
    assert len(set(epoch(data)[0].clip_id.tolist())) == 4


def test_an_error_in_a_worker_reads_like_one_in_the_main_process(shards, tokenizer):
    with pytest.raises(
        AtrError, match=r"^augmentation failed with RuntimeError: no impulse response; check conf/augment$"
    ):
        epoch(module(shards, tokenizer, num_workers=1, transform=broken_transform))


def broken_transform(samples, sample_rate):
    raise RuntimeError("no impulse response")


def test_mixing_pairs_is_reproducible_and_masks_the_joined_caption(shards, tokenizer):
    settings = {"mix": PairMix(0.5), "batch_size": 16}
    first, again = (epoch(module(shards, tokenizer, num_workers=w, **settings))[0] for w in (0, 2))
    assert equal(first, again)
    captions = [sample.captions[0] for sample in first.samples]
    mixed = [caption for caption in captions if " and " in caption or " followed by " in caption]
    assert 3 <= len(mixed) <= 13
    whole = epoch(module(shards, tokenizer, batch_size=16))[0]
    assert whole.clip_id.tolist() == first.clip_id.tolist()  # the order does not depend on the mixing
    hidden = epoch(module(shards, tokenizer, mix=PairMix(1.0), word_mask=WordMask(1.0), batch_size=16))[0]
    assert all(sample.spoken[0].split().count(tokenizer.mask_token) >= 6 for sample in hidden.samples)


def test_a_mixture_of_corpora_says_where_each_clip_comes_from(tmp_path, clips, tokenizer):
    write_shards(clips[:12], tmp_path / "a", codec="flac")
    write_shards(clips[12:], tmp_path / "b", codec="flac")
    train = {"tones": [tmp_path / "a"], "bells": str(tmp_path / "b")}
    data = module("", tokenizer, train=train, test=[], mixture=Mixture(weights={"tones": 1, "bells": 1}))
    batches = epoch(data)
    names = [sample.corpus for batch in batches for sample in batch.samples]
    assert data.corpora() == ["tones", "bells"] and names.count("bells") == 8 == names.count("tones")
    assert {tuple(batch.corpus_id.tolist()) for batch in batches} != {()}
    assert len(set(torch.cat([batch.corpus_id for batch in batches]).tolist())) == 2
    # a repeated clip gets another crop: note15 is longer than a second
    crops = {}
    for number in range(3):
        for batch in epoch(data, number):
            for row, sample in enumerate(batch.samples):
                crops.setdefault(sample.key, []).append(batch.waveform[row].numpy().tobytes())
    repeated = next(seen for key, seen in crops.items() if key.endswith(":note15"))
    assert len(repeated) == 6 and len(set(repeated)) == 6


def test_a_bad_sample_is_replaced_from_its_own_corpus(tmp_path, clips, tokenizer):
    write_shards(clips[:8], tmp_path / "a", codec="flac")
    write_shards(clips[8:], tmp_path / "b", codec="flac")
    add_to_tar(tmp_path / "b" / "00000.tar", [("bad.wav", b"x"), ("bad.json", b'{"text": ["x"]}')])
    data = module("", tokenizer, train={"a": [tmp_path / "a"], "b": [tmp_path / "b"]}, test=[], batch_size=17)
    for number in range(4):
        names = [sample.corpus for sample in epoch(data, number)[0].samples]
        assert names.count("b") == 9


def test_stereo_batches_have_two_channels(tmp_path, tokenizer):
    soundfile.write(tmp_path / "x.wav", np.stack([tone(300), tone(700)], axis=1), 16_000)
    clip = Clip(id="x", audio=str(tmp_path / "x.wav"), captions=["two tones"])
    write_shards([clip], tmp_path / "stereo")
    data = module(tmp_path / "stereo", tokenizer, stereo=True, batch_size=1)
    for batch in (epoch(data)[0], next(iter(data.evaluation_loader("test")))):
        assert batch.waveform.shape == (1, 2, 16_000) and batch.waveform.dtype == torch.int16
        assert not torch.equal(batch.waveform[0, 0], batch.waveform[0, 1])
    mel = LogMel(sample_rate=16_000, seconds=1.0, n_fft=512, hop=160, frequency_max=8000)
    mixed = (batch.waveform.float() / 32767).mean(dim=1)
    assert torch.allclose(mel(batch.waveform), mel(mixed), atol=1e-4)


def test_what_a_damaged_shard_has_lost_is_in_the_account(shards, tokenizer):
    path = shards / "00000.tar"
    path.write_bytes(path.read_bytes()[:60_000])
    data = module(shards, tokenizer)
    ledger = data.ledger("train", 0.01)
    assert ledger.clips == 16 and len(ledger.bad) == 16 - len(data.sets["train"])
    with pytest.raises(DataError, match=r"of 16 clips cannot be used, more than bad_samples=0\.01:\n.*00000\.tar:note"):
        ledger.add(epoch(data)[0])


def test_a_long_clip_whose_shard_fails_while_it_is_decoded_is_bad_and_not_short(tmp_path, tokenizer, monkeypatch):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "long.wav", 0.1 * rng.standard_normal(2_000_000), 16_000, subtype="PCM_16")
    write_shards([Clip(id="long", audio=str(tmp_path / "long.wav"), captions=["x"])], tmp_path / "long")
    data = module(tmp_path / "long", tokenizer, seconds=30.0)
    good = next(iter(data.evaluation_loader("test")))
    assert good.waveform.shape == (1, 480_000) and not good.bad
    read = ShardSet.pread

    def failing(self, shard, offset, size):
        if offset > 300_000:
            raise DataError("the server is gone")
        return read(self, shard, offset, size)

    monkeypatch.setattr(ShardSet, "pread", failing)
    batch = next(iter(data.evaluation_loader("test")))
    assert not batch.samples and batch.bad[0].reason == "the server is gone"


def test_captions_are_made_of_labels_on_request_only(tmp_path, clips, tokenizer):
    labelled = [replace(clip, captions=[], labels=["dog_bark", "rain"]) for clip in clips]
    labelled[0] = replace(clips[0], captions=["its own caption"])
    write_shards(labelled, tmp_path / "labelled", codec="flac")
    data = module(tmp_path / "labelled", tokenizer, label_template="The sounds of {labels}")
    captions = {sample.captions[0] for batch in epoch(data) for sample in batch.samples}
    assert captions == {"its own caption", "The sounds of dog bark and rain"}
    with pytest.raises(DataError, match=r"but labels: data\.label_template makes captions of them"):
        epoch(module(tmp_path / "labelled", tokenizer))
    with pytest.raises(UsageError, match=r"data\.label_template 'sounds' has no {labels} in it"):
        module(tmp_path / "labelled", tokenizer, label_template="sounds")
