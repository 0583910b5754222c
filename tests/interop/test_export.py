"""`atr export`: what is written computes the same, or nothing is written."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import atr
from atr.checkpoint import build_model, read_checkpoint
from atr.cli import app
from atr.errors import CheckpointError, UsageError
from atr.experiment import train
from atr.interop import to_hf
from atr.interop.agreement import (
    CAPTIONS,
    LEAST_COSINE,
    MOST_DIFFERENCE,
    as_float,
    encode_captions,
    encode_sounds,
    sounds,
)
from atr.interop.export import export, whole_folder
from tests.conftest import Compose, tone
from tests.interop.conftest import FITTING, LOG_SCALE, save_checkpoint

ALONE = """
import json, sys
import numpy as np
from transformers import ClapModel, ClapProcessor, pipeline
folder, samples = sys.argv[1], np.load(sys.argv[2])
classify = pipeline("zero-shot-audio-classification", model=folder)
answers = classify(samples, candidate_labels=["dog", "rain", "engine"], hypothesis_template="The sound of {}")
processor, model = ClapProcessor.from_pretrained(folder), ClapModel.from_pretrained(folder)
inputs = processor(text=["rain on a roof"], audio=samples, sampling_rate=16000, return_tensors="pt")
assert not [name for name in sys.modules if name.partition(".")[0] == "atr"]
print(json.dumps({"answers": answers, "logit": model(**inputs).logits_per_audio.item()}))
"""


def left(tmp_path):
    """What lies in the folder beside the run and the shards."""
    return sorted(path.name for path in tmp_path.iterdir() if path.name not in ("run", "sounds", "shards"))


def test_the_folder_works_where_atr_is_not_imported(make, tmp_path):
    path = make()
    exported = export(path, tmp_path / "out")
    assert len({file.stat().st_mode for file in exported.folder.iterdir()}) == 1  # all can be read by the same people
    # measured: 1 - cosine 5e-10 (a pure tone, by the rounding of the STFT) and 2e-13, numbers 1.4e-5 and 3e-7,
    # probabilities 9e-6
    assert exported.agreement.audio_cosine > 1 - 5e-9 and exported.agreement.text_cosine > 1 - 2e-12
    assert exported.agreement.audio_difference < MOST_DIFFERENCE and exported.agreement.text_difference < 3e-6
    assert exported.agreement.probability < 1e-4
    samples = tone(300) + np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)
    np.save(tmp_path / "samples.npy", samples)
    command = [sys.executable, "-c", ALONE, str(tmp_path / "out"), str(tmp_path / "samples.npy")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    model = atr.load(path)
    ours = dict(model.classify((samples, 16_000), ["dog", "rain", "engine"]))
    cosines = torch.tensor([ours[answer["label"]] for answer in said["answers"]])
    expected = (np.exp(LOG_SCALE) * cosines).softmax(0)
    # atr rounds sound to 16 bit, transformers does not: measured 6e-6
    torch.testing.assert_close(
        torch.tensor([answer["score"] for answer in said["answers"]]), expected, atol=1e-3, rtol=0
    )
    logit = np.exp(LOG_SCALE) * model.similarity(
        model.encode_audio((samples, 16_000)), model.encode_text("rain on a roof")
    )
    assert said["logit"] == pytest.approx(logit.item(), abs=0.02)


def test_every_number_of_the_front_end_and_the_text_encoder_is_written(make, tmp_path):
    path = make("model.text.config.layer_norm_eps=1e-3", "model.mel.frequency_min=80", "model.mel.hop=200")
    agreement = export(path, tmp_path / "out").agreement
    assert agreement.audio_cosine > 1 - 1e-8 and agreement.text_difference < 3e-6
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["layer_norm_eps"] == 1e-3 and config["audio_config"]["window_size"] == 4
    front = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert {name: front[name] for name in ("frequency_min", "hop_length", "sampling_rate", "max_length_s")} == {
        "frequency_min": 80, "hop_length": 200, "sampling_rate": 16_000, "max_length_s": 1,
    }  # fmt: skip
    assert (front["truncation"], front["padding"]) == ("rand_trunc", "repeatpad")


FUSED = ("+model.audio.fusion=true", "+model.mel.mel_scale=htk", "model.mel.n_mels=64", "model.audio.picture_size=128")


def test_a_model_with_fusion(make, tmp_path, monkeypatch):
    agreement = export(make(*FUSED), tmp_path / "out").agreement
    assert agreement.audio_cosine > 1 - 1e-8 and agreement.probability < 1e-4
    config = json.loads((tmp_path / "out" / "config.json").read_text())["audio_config"]
    front = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (config["enable_fusion"], config["fusion_type"], front["truncation"]) == (True, "aff_2d", "fusion")
    assert "is_longer" in (tmp_path / "out" / "README.md").read_text()
    # The control: without the crops the long sound would have another embedding.
    clap = build_model(read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt"))
    long = torch.from_numpy(np.concatenate(list(sounds(16_000, 1.0).values())))[None]
    views = clap.log_mel(long)
    whole_alone = clap.encode_log_mel(views, torch.tensor([False]))
    assert views.shape[1] == 4 and (clap.encode_audio(long) - whole_alone).abs().max() > 1e-2


def edit(file, **changes):
    content = json.loads(file.read_text())
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (content[part] if part else content)[name] = value
    file.write_text(json.dumps(content))


def exchange(file):
    """Queries and keys of one block."""
    tensors, block = load_file(file), "audio_model.audio_encoder.layers.1.blocks.0.attention.self"
    query, key = tensors[f"{block}.query.weight"], tensors[f"{block}.key.weight"]
    save_file(tensors | {f"{block}.query.weight": key, f"{block}.key.weight": query}, file, {"format": "pt"})


BROKEN = {
    "layer-norm eps": ("text", lambda out: edit(out / "config.json", text_config__layer_norm_eps=1e-2)),
    "lowest frequency": ("audio", lambda out: edit(out / "preprocessor_config.json", frequency_min=0)),
    "padding": ("audio", lambda out: edit(out / "preprocessor_config.json", padding="pad")),
    "queries and keys": ("audio", lambda out: exchange(out / "model.safetensors")),
    "tokens": ("text", lambda out: edit(out / "tokenizer_config.json", model_max_length=20)),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model, and the folder that was written of it."""
    root = tmp_path_factory.mktemp("written")
    clap = build_model(read_checkpoint(save_checkpoint(Compose(root, root)(*FITTING), root / "last.ckpt")))
    to_hf.write(root / "out", clap, LOG_SCALE)
    return clap, root / "out"


@pytest.mark.parametrize("broken", BROKEN)
def test_a_folder_that_computes_something_else_is_refused(written, tmp_path, broken):
    clap, good = written
    side, spoil = BROKEN[broken]
    shutil.copytree(good, tmp_path / "out")
    spoil(tmp_path / "out")
    with pytest.raises(CheckpointError, match=f"nothing was written: .*{side} embeddings differ"):
        to_hf.compare(tmp_path / "out", clap, LOG_SCALE).check("out")


def test_after_a_refusal_nothing_stays(make, tmp_path, monkeypatch):
    exact = to_hf.write
    monkeypatch.setattr(to_hf, "write", lambda folder, clap, log_scale: exact(folder, clap, log_scale + 1))
    with pytest.raises(CheckpointError, match="nothing was written: zero-shot classification differs"):
        export(make(), tmp_path / "out")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model.text.pooling=mean"], r"pooling is mean, .*train with model\.text\.pooling=pooler"),
        (["model.text.pooling=first"], "pooling is first"),
        (
            ["model.text.config.model_type=bert"],
            r"text encoder is a BertModel, ClapModel's RoBERTa \(train with model/text=roberta_base",
        ),
        (["model.audio.window=8"], r"4 x 4 places, fewer than a window of 8 x 8.*train with model\.audio\.window=4"),
        (["model.mel.seconds=1.5"], r"hears 1\.5 s, ClapFeatureExtractor whole seconds"),
        (["+model.mel.mel_scale=htk"], r"htk with fusion and slaney without \(train with model\.mel\.mel_scale=slaney"),
        (["+model.audio.fusion=true"], r"mel_scale is slaney; .*mel_scale=htk\); it fuses 32 mel bins"),
        (["model.mel.floor=1e-8"], r"floor is 1e-08, ClapFeatureExtractor's 1e-10"),
        (
            ["model.text.pooling=mean", "model.audio.window=8"],
            "pooling is mean.*; the last stage",  # all of them at once
        ),
    ],
)
def test_what_clapmodel_cannot_represent_is_refused_with_what_to_train(make, tmp_path, overrides, reason):
    with pytest.raises(CheckpointError, match=f"last.ckpt cannot be exported to hf: .*{reason}"):
        export(make(*overrides), tmp_path / "out")
    assert left(tmp_path) == []


def test_layers_that_clapmodel_has_otherwise_are_refused(make):
    clap = build_model(read_checkpoint(make()))
    assert list(to_hf.obstacles(clap)) == []
    clap.audio_projection[1] = torch.nn.GELU()
    clap.audio.norm.eps = 1e-6
    clap.text.inner.config.is_decoder = True
    assert [re.search(r"RoBERTa|eps|GELU", reason)[0] for reason in to_hf.obstacles(clap)] == ["RoBERTa", "eps", "GELU"]


def test_a_folder_with_something_in_it_is_refused_and_an_empty_one_is_taken(make, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    path = make()
    with pytest.raises(UsageError, match="out is there already; remove it, or name a folder that is new or empty"):
        export(path, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    (tmp_path / "out" / "mine.txt").unlink()
    export(path, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file() and left(tmp_path) == ["out"]


def test_a_checkpoint_without_logit_scale_is_refused(make, tmp_path):
    path = make()
    content = torch.load(path, weights_only=True)
    del content["state_dict"]["loss.logit_scale"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="has no logit scale"):
        export(path, tmp_path / "out")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_is_left_after_an_interruption(tmp_path, error):
    with pytest.raises(error), whole_folder(tmp_path / "deep" / "out") as part:
        (part / "half").write_text("x")
        raise error
    assert list((tmp_path / "deep").iterdir()) == []


def test_the_sounds_of_the_comparison_tell_models_apart(make, tmp_path):
    """Or agreement would mean nothing: any two are further apart than ten times what is allowed."""
    clap = build_model(read_checkpoint(make()))
    waves = list(sounds(16_000, 1.0).values())
    assert {wave.dtype for wave in waves} == {np.dtype("int16")} and max(map(len, waves)) == 16_000 > min(
        map(len, waves)
    )
    for rows in (encode_sounds(clap, waves), encode_captions(clap, CAPTIONS)):
        cosines = rows @ rows.T - 2 * torch.eye(len(rows))
        assert cosines.max() < 1 - 10 * (1 - LEAST_COSINE)
    assert torch.equal(clap.mel(torch.from_numpy(waves[0])[None]), clap.mel(torch.from_numpy(as_float(waves[0]))[None]))


def test_the_card_tells_what_is_known(make, tmp_path):
    path = make()
    (tmp_path / "run" / "metrics.json").write_text(
        json.dumps({"retrieval/t2a/R@1": 0.25, "zero_shot/accuracy": 0.50000001, "zero_shot/clips": 80})
    )
    export(path, tmp_path / "out", licence="cc-by-4.0")
    page = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(page.split("---")[1])
    assert (front["license"], front["library_name"]) == ("cc-by-4.0", "transformers")
    assert front["pipeline_tag"] == "zero-shot-audio-classification"
    results = {row["type"]: row["value"] for row in front["model-index"][0]["results"][0]["metrics"]}
    assert results == {"retrieval/t2a/R@1": 0.25, "zero_shot/accuracy": 0.5}
    assert "| zero_shot/accuracy | 0.5 |" in page and "clips 16; shards 1; sha256 abc" in page
    assert "window: 4" in page and "7 steps" in page and "low_note, high_note" in page
    assert str(tmp_path) not in page and "/" + str(path).split("/")[1] + "/" not in page  # nobody's folders
    (config,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert yaml.safe_load(config)["model"]["audio"]["window"] == 4


def test_a_card_without_licence_or_numbers_says_so(make, tmp_path):
    path = make()
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({"zero_shot/accuracy": 0.5}))
    (path.parent / "best.ckpt").write_bytes(path.read_bytes())  # whose numbers those are
    export(path, tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(page.split("---")[1])["license"] == "unknown"
    assert "unknown: add yours" in page and "None: no `metrics.json` of this checkpoint" in page and "0.5" not in page


def test_the_verb_prints_the_figures(make, tmp_path):
    path = make()
    result = CliRunner().invoke(app, ["export", str(path), "--to", "hf", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert re.search(r"audio       cosine >= 1 - \d", result.stdout) and "zero-shot   probabilities" in result.stdout
    wrong = CliRunner().invoke(app, ["export", str(path), "--to", "tflite", str(tmp_path / "other")])
    assert isinstance(wrong.exception, UsageError) and "allowed: hf, onnx" in str(wrong.exception)


@pytest.mark.slow
def test_a_trained_model_classifies_the_same_in_transformers(tiny, tmp_path, clips):
    """Every clip of the test set: the label, and the embedding, that the checkpoint gives."""
    import soundfile
    from transformers import pipeline

    train(tiny("model.audio.window=4", "model.text.pooling=pooler", "trainer.max_epochs=4"))
    path = tiny.run_dir / "checkpoints" / "last.ckpt"
    agreement = export(path, tmp_path / "out").agreement
    # measured: 1 - cosine 2e-9 and 6e-15, numbers 3.4e-5 and 4e-8, probabilities 2e-7
    assert agreement.audio_cosine > 1 - 2e-8 and agreement.text_cosine > 1 - 1e-12
    assert "zero_shot/accuracy" in (tmp_path / "out" / "README.md").read_text()
    classify = pipeline("zero-shot-audio-classification", model=str(tmp_path / "out"))
    model, labels = atr.load(path), ["low note", "high note"]
    for clip in clips:
        samples, rate = soundfile.read(clip.audio, dtype="float32")
        samples = samples[: int(model.seconds * rate)]  # of longer sound the pipeline takes a random stretch
        (best, *_) = classify(samples, candidate_labels=labels, hypothesis_template="The sound of {}")
        assert best["label"] == model.classify((samples, rate), labels)[0][0]
