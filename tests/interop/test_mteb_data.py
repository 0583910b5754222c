"""mteb's batches and names, without mteb: a torch loader over rows with `features`."""

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from atr.datasets.corpus import corpus_names
from atr.errors import DataError, UsageError
from atr.interop.mteb_data import TASKS_OF_CORPUS, as_lists, encode_loader, sound_of, training_tasks
from tests.conftest import tone


class Rows(Dataset):
    """What mteb's loaders stand over: rows, and `features` by column."""

    def __init__(self, rows):
        self.rows, self.features = rows, {column: None for column in rows[0]}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


def sounds(count=7):
    return [(tone(200 + 90 * i, 0.4 + 0.3 * i), 16_000) for i in range(count)]  # shorter and longer than the window


def loader(rows, batch_size=3):
    return DataLoader(Rows(rows), batch_size, collate_fn=lambda rows: pytest.fail("our own collation is used"))


def item(sound):
    return {"array": sound[0], "sampling_rate": sound[1]}


def test_audio_batches_are_encode_audio(model):
    rows = [{"audio": item(sound), "label": i} for i, sound in enumerate(sounds())]
    found = encode_loader(model, loader(rows), progress=False)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    expected = model.encode_audio(sounds()).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.abs(found - expected[::-1]).max() > 1e-3  # the control: the order is that of the rows


def test_text_batches_are_encode_text_and_both_are_summed(model):
    captions = ["a dog barks", "", "rain " * 300, "a bell", "ein Hund"]
    rows = [{"text": text, "audio": item(sound)} for text, sound in zip(captions, sounds(5), strict=True)]
    text = encode_loader(model, loader([{"text": row["text"]} for row in rows]), progress=False)
    np.testing.assert_allclose(text, model.encode_text(captions).numpy(), atol=1e-5, rtol=0)
    audio = encode_loader(model, loader([{"audio": row["audio"]} for row in rows]), progress=False)
    np.testing.assert_allclose(encode_loader(model, loader(rows), progress=False), text + audio, atol=1e-5, rtol=0)


def test_sounds_come_as_arrays_by_channel_and_as_files(model, tmp_path):
    """mteb's arrays are `(channels, T)`, ours `(T, channels)`; its undecoded files are bytes or a path."""
    stereo = tone(440, 1.0, channels=2)
    expected = model.encode_audio((stereo, 16_000))
    samples, rate = sound_of({"array": stereo.T, "sampling_rate": 16_000})
    assert samples.shape == stereo.shape and torch.equal(model.encode_audio((samples, rate)), expected)
    soundfile.write(tmp_path / "tone.flac", stereo, 16_000, subtype="PCM_24")
    by_path = model.encode_audio(sound_of({"bytes": None, "path": str(tmp_path / "tone.flac")}))
    by_bytes = model.encode_audio(sound_of({"bytes": (tmp_path / "tone.flac").read_bytes(), "path": None}))
    assert torch.equal(by_path, by_bytes)
    torch.testing.assert_close(by_path, expected, atol=1e-3, rtol=0)


def test_a_rate_is_heeded(model):
    at_48 = {"audio": item((tone(440, rate=48_000), 48_000))}
    at_16 = {"audio": item((tone(440), 16_000))}
    claimed = {"audio": item((tone(440, rate=48_000), 16_000))}
    found, expected, wrong = encode_loader(model, loader([at_48, at_16, claimed]), progress=False)
    assert np.abs(found - expected).max() < 0.1 * np.abs(wrong - expected).max()


def test_files_of_a_data_set_are_not_decoded_by_it(model, tmp_path):
    """`datasets` would want torchcodec; the embeddings are those of the files."""
    datasets = pytest.importorskip("datasets")
    files = [str(tmp_path / f"{i}.wav") for i in range(3)]
    for file, (samples, rate) in zip(files, sounds(3), strict=True):
        soundfile.write(file, samples, rate)
    data = datasets.Dataset.from_dict({"audio": files}).cast_column("audio", datasets.Audio())
    found = encode_loader(model, DataLoader(data, 2), progress=False)
    np.testing.assert_allclose(found, model.encode_audio(files).numpy(), atol=1e-5, rtol=0)


def test_what_cannot_be_used_is_named(model):
    rows = [{"audio": item(sound)} for sound in sounds(5)]
    rows[4]["audio"]["array"] = np.full(100, np.nan, np.float32)
    with pytest.raises(DataError, match="in rows 3 to 4 of the task: sound 1 holds NaN"):
        encode_loader(model, loader(rows), progress=False)
    broken = [{"audio": {"bytes": b"no sound", "path": "barks.wav"}}]
    with pytest.raises(DataError, match=r"barks\.wav cannot be decoded"):
        encode_loader(model, loader(broken), progress=False)
    with pytest.raises(UsageError, match=r"columns \['image'\]: this model takes text and audio"):
        encode_loader(model, loader([{"image": 0}]), progress=False)


def test_no_gradient_is_kept_and_workers_collate(model):
    rows = [{"audio": item(sound)} for sound in sounds(4)]
    found = encode_loader(model, DataLoader(Rows(rows), 2, num_workers=1, collate_fn=as_lists), progress=False)
    assert not torch.from_numpy(found).requires_grad
    np.testing.assert_allclose(found, model.encode_audio(sounds(4)).numpy(), atol=1e-5, rtol=0)


TASKS = [
    "ClothoT2ARetrieval",
    "ClothoA2TRetrieval.v2",
    "ESC50",
    "ESC50_Zeroshot",
    "AudioSet",
    "UrbanSound8k",
    "VoxCelebSA",
]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["data/clotho/train"], {"ClothoT2ARetrieval", "ClothoA2TRetrieval.v2"}),
        (["data/esc10/fold1", "data/esc10/fold2"], {"ESC50", "ESC50_Zeroshot"}),
        ({"clotho": ["here/{00000..00009}.tar"], "sky": ["s3://bucket/urbansound8k/train"]},
         {"ClothoT2ARetrieval", "ClothoA2TRetrieval.v2", "UrbanSound8k"}),
        ("data/urbansound8k/train", {"UrbanSound8k"}),
        (["data/openmic/train"], set()),
    ],
)  # fmt: skip
def test_tasks_of_the_training_data(places, expected):
    config = OmegaConf.create({"init": None, "data": {"train": places}})
    assert training_tasks(config, TASKS) == (expected, "")


@pytest.mark.parametrize(
    ("init", "places", "reason"),
    [
        (None, ["data/clotho/train", "data/mine"], "no known corpus is named in data/mine"),
        (None, ["data/my_clotho/train"], "no known corpus is named in data/my_clotho/train"),
        ("old.ckpt", ["data/clotho/train"], "it began from the weights of old.ckpt"),
    ],
)
def test_unknown_training_data_are_unknown(init, places, reason):
    tasks, found = training_tasks(OmegaConf.create({"init": init, "data": {"train": places}}), TASKS)
    assert tasks is None and reason in found


def test_a_file_that_names_no_data_is_unknown():
    assert training_tasks(OmegaConf.create({"model": {}}), TASKS) == (None, "the file does not name them")


def test_corpora_are_named_as_prepare_names_them():
    assert set(TASKS_OF_CORPUS) <= set(corpus_names())
