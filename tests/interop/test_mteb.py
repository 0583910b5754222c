"""The wrapper in mteb itself: its description, its protocol, and mteb's own sanity run."""

import numpy as np
import pytest

import atr

mteb = pytest.importorskip("mteb")

from atr.errors import CheckpointError  # noqa: E402
from atr.interop.mteb import MtebEncoder  # noqa: E402


@pytest.fixture
def encoder(checkpoint):
    return MtebEncoder(str(checkpoint), device="cpu")


def test_mock_run_passes(encoder):
    """All of mteb's mock tasks with text and sound, offline. Their sound is made by torchcodec."""
    pytest.importorskip("torchcodec")
    result = mteb.mock_run(encoder)
    errors = {name: str(status) for name, status in result.items() if type(status).__name__ == "TaskError"}
    ran = {name for name, status in result.items() if type(status).__name__ == "TaskResult"}
    assert not errors and result.all_passed
    assert len(ran) >= 38


def test_the_description_says_what_is_known(encoder, checkpoint):
    meta, clap = encoder.mteb_model_meta, atr.load(checkpoint).clap
    assert meta.name == "atr/demo" and meta.modalities == ["audio", "text"]
    assert meta.n_parameters == sum(p.numel() for p in clap.parameters())
    assert meta.embed_dim == 32 and meta.max_tokens == clap.text.tokenizer.max_tokens
    assert 0 < meta.memory_usage_mb < 10
    assert {"ESC50", "ESC50_Zeroshot"} <= meta.training_datasets  # the demo's sound
    assert all(name.startswith("ESC50") for name in meta.training_datasets)
    assert meta.is_zero_shot_on(["ESC50"]) is False and meta.is_zero_shot_on(["ClothoT2ARetrieval"]) is True
    assert meta.license is meta.release_date is meta.languages is None


def test_tasks_with_newer_versions_are_marked_too(write):
    """MAEB has some of the first versions."""
    marked = MtebEncoder(str(write("data.train=[data/clotho/train,data/urbansound8k/train]"))).mteb_model_meta
    assert {"ClothoT2ARetrieval", "ClothoT2ARetrieval.v2", "ClothoA2TRetrieval"} <= marked.training_datasets
    assert {"UrbanSound8KT2ARetrieval", "UrbanSound8kZeroshot"} <= marked.training_datasets
    assert marked.is_zero_shot_on(["ESC50"]) is True


def test_what_is_not_known_is_said_and_can_be_given(write):
    path = str(write("data.train=[data/mine]"))
    with pytest.warns(UserWarning, match="no known corpus is named in data/mine"):
        assert MtebEncoder(path).mteb_model_meta.training_datasets is None
    with pytest.warns(UserWarning, match="no known corpus"):
        meta = MtebEncoder(path, "v1", name="me/model", training_datasets={"FSD50K"}).mteb_model_meta
    assert (meta.name, meta.revision, meta.training_datasets) == ("me/model", "v1", {"FSD50K"})


def test_the_revision_is_that_of_the_weights(checkpoint, write):
    revision = MtebEncoder(str(checkpoint)).mteb_model_meta.revision
    assert revision == MtebEncoder(str(checkpoint.with_suffix(".safetensors"))).mteb_model_meta.revision
    other = write("model.audio.init_std=0.5")
    assert revision != MtebEncoder(str(other)).mteb_model_meta.revision


def test_mteb_recognises_it_and_loads_it_again_from_its_description(encoder):
    from mteb.models import EncoderProtocol

    assert isinstance(encoder, EncoderProtocol)
    pair = encoder.model.encode_text(["a dog", "rain"]).numpy()
    np.testing.assert_allclose(encoder.similarity(pair, pair), pair @ pair.T, atol=1e-6)
    meta = encoder.mteb_model_meta
    again = meta.loader(meta.name, revision=meta.revision, device="cpu")
    np.testing.assert_array_equal(again.model.encode_text(["a dog", "rain"]), pair)


def test_a_missing_checkpoint_is_named():
    with pytest.raises(CheckpointError, match=r"gone\.ckpt is not there"):
        MtebEncoder("gone.ckpt")
