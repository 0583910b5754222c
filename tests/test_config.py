"""Every file under conf/ composes, every experiment instantiates, a mistyped key is answered with the valid ones."""

import json

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from atr.captioning import build_captioner
from atr.config import compose_config, conf_dir, demo_dir, missing
from atr.errors import UsageError
from atr.evaluation.run import evaluate_checkpoint
from atr.experiment import build_data, train
from atr.shards.write import write_shards
from tests.conftest import ROOT, TINY, make_clips

FILES = sorted(
    path.relative_to(conf_dir()).with_suffix("")
    for path in conf_dir().rglob("*.yaml")
    if path.parent != conf_dir() and path.parent.name != "launcher"  # needs an extra: tests/test_launch.py
)
EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_composes(file):
    within = ["captioner=prefix"] if str(file).startswith("captioner/") else []
    cfg = compose_config([*within, f"{file.parent}={file.name}"])
    assert cfg.seed == 0 and cfg.model._target_ == "atr.models.clap.Clap"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_instantiates(experiment, shards, tmp_path):
    """Stand-ins: a RoBERTa with random weights for the published one, sixteen tones for corpora."""
    demo = experiment in ("demo", "demo_unseen", "caption_demo")
    fold = "${demo:esc10/fold5}" if demo else str(shards)
    overrides = [f"experiment={experiment}", f"run_dir={tmp_path}", "init=x.ckpt", f"data.train=['{fold}']",
                 f"data.test=['{fold}']", "data.batch_size=4", "model/text=roberta_demo"]  # fmt: skip
    if experiment.startswith("caption"):
        overrides.append("captioner/language_model=gpt2_demo")
    if not demo:
        overrides.append(f"data.validation=['{fold}']")
    cfg = compose_config(overrides)
    OmegaConf.resolve(cfg)
    assert OmegaConf.missing_keys(cfg) == set() and cfg.name == experiment
    model = instantiate(cfg.model)
    if cfg.captioner:
        model = build_captioner(model, cfg.captioner)
        batch = next(iter(build_data(cfg, model).train_dataloader()))
        loss = model.loss(model.features(batch.waveform), batch.input_ids, batch.attention_mask)
    else:
        batch = next(iter(build_data(cfg, model).train_dataloader()))
        loss = instantiate(cfg.loss)(model(batch), batch)
    loss.backward()
    assert loss.isfinite()
    optimizer = instantiate(cfg.optimizer)(model.parameters())
    instantiate(cfg.schedule)(optimizer, 10)
    instantiate(cfg.logger)


@pytest.mark.parametrize("size", ["tiny", "base", "large"])
def test_the_sizes_have_the_references_widths(size):
    cfg = compose_config([f"model/audio=htsat_{size}", "model/mel=clap_48k"])
    assert cfg.model.audio.embed_dim == {"tiny": 96, "base": 128, "large": 256}[size]
    assert sum(cfg.model.audio.depths) == (12 if size == "tiny" else 18)


def test_the_papers_captioner():
    cfg = compose_config(["experiment=caption_audiocaps_clotho_macs", "init=x.ckpt"])
    assert (cfg.data.batch_size, cfg.trainer.max_epochs, cfg.optimizer.lr) == (128, 15, 5e-4)
    assert cfg.captioner.mapping.prefix_length == 8 and list(cfg.data.train) == ["audiocaps", "clotho", "macs"]
    assert cfg.captioner.language_model.train == "nothing" and cfg.captioner.language_model.tokenizer.path == "gpt2"
    lora = compose_config(["captioner=prefix", "captioner/language_model=gpt2_lora"]).captioner.language_model
    assert (lora.name, lora.train, lora.rank) == ("gpt2", "lora", 8)


def test_the_papers_recipe():
    cfg = compose_config(["experiment=atr_pretrain"])
    assert (cfg.optimizer._target_, cfg.optimizer.lr, cfg.optimizer.weight_decay) == ("torch.optim.Adam", 1e-4, 0.0)
    assert (cfg.data.batch_size, cfg.trainer.max_epochs, cfg.model.dim) == (768, 20, 512)
    assert cfg.masking.word_mask.probability == 0.25 and cfg.augment.transform.p == 0.5
    for name in ("finetune_audiocaps", "finetune_clotho"):
        cfg = compose_config([f"experiment={name}"])
        assert (cfg.optimizer.lr, cfg.trainer.max_epochs) == (2e-5, 15)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=3", r"no key 'trainer.max_epoch'\. Did you mean trainer.max_epochs\? .*under trainer: acc"),
        ("sed=1", r"no key 'sed'\. Did you mean seed\? .*at the top: augment, bad_samples"),
        ("foo.bar=1", r"no key 'foo.bar'\. .*at the top: augment"),
        ("model.audio.embed=3", r"Did you mean model.audio.embed_dim\?"),
        (
            "experiment=dem",
            r"experiment=dem does not exist; there are: atr_pretrain, caption_",
        ),
        ("model/audio=x", r"model/audio=x does not exist; there are: htsat_base"),
        ("seed=[1", r"no viable alternative"),
    ],
)
def test_a_wrong_override_is_answered_with_the_valid_ones(override, message):
    with pytest.raises(UsageError, match=message):
        compose_config([override])


def test_a_checkout_reads_its_own_folders():
    assert conf_dir() == ROOT / "conf" and demo_dir() == ROOT / "data"


def test_every_experiment_says_how_to_run_it_and_what_to_expect():
    for path in (conf_dir() / "experiment").glob("*.yaml"):
        head = path.read_text().split("defaults:")[0].split("name:")[0]
        assert f"python train.py{'' if path.stem == 'demo' else ' experiment=' + path.stem}" in head, path
        assert "Hardware" in head and "Expect" in head, path


PRESETS = {  # name -> corpora of train and their clips' folders, corpora of test
    "basic": (["data/audiocaps/train", "data/clotho/train"], ["audiocaps", "clotho"]),
    "basic_laion": (
        ["data/audiocaps/train", "data/clotho/train", "data/laion_audio/freesound_no_overlap",
         "data/laion_audio/epidemic_sound_effects", "data/laion_audio/bbc", "data/laion_audio/audiostock"],
        ["audiocaps", "clotho"],
    ),
    "basic_wavcaps": (
        ["data/audiocaps/train", "data/clotho/train", "data/wavcaps/freesound", "data/wavcaps/bbc",
         "data/wavcaps/soundbible", "data/wavcaps/audioset"],
        ["audiocaps", "clotho"],
    ),
    "basic_acd_vs": (
        ["data/audiocaps/train", "data/clotho/train", "data/auto_acd/train_vggsound"],
        ["audiocaps", "clotho", "auto_acd"],
    ),
    "basic_acd": (
        ["data/audiocaps/train", "data/clotho/train", "data/auto_acd/train"], ["audiocaps", "clotho", "auto_acd"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("experiment", ["atr_pretrain", "finetune_audiocaps", "finetune_clotho"])
def test_the_papers_data_compose_with_its_experiments(preset, experiment):
    cfg = compose_config([f"experiment={experiment}", f"data={preset}", "init=null"])
    folders, tests = PRESETS[preset]
    assert [folder for corpus in cfg.data.train.values() for folder in corpus] == folders
    assert list(cfg.data.train)[:2] == ["audiocaps", "clotho"] and list(cfg.data.test) == tests
    assert cfg.data.validation == {"audiocaps": ["data/audiocaps/validation"], "clotho": ["data/clotho/validation"]}
    assert missing(cfg) == [] and cfg.data.batch_size == 768 and cfg.name == experiment


def test_each_experiment_has_its_own_data():
    acd = compose_config(["experiment=atr_pretrain"]).data
    assert list(acd.train) == ["audiocaps", "clotho", "auto_acd"] and acd.train.auto_acd == ["data/auto_acd/train"]
    for name in ("audiocaps", "clotho"):
        data = compose_config([f"experiment=finetune_{name}"]).data
        assert (data.train, data.validation, data.test) == tuple(
            [f"data/{name}/{split}"] for split in ("train", "validation", "test")
        )
    assert compose_config().data.validation is None


def test_folders_on_the_command_line_take_the_place_of_a_presets_corpora():
    cfg = compose_config(["experiment=atr_pretrain", "data.train=[x]", "data.test={audiocaps: [y]}"])
    assert cfg.data.train == ["x"] and cfg.data.test == {"audiocaps": ["y"]}
    assert compose_config(["experiment=atr_pretrain", "+data.test.more=[z]"]).data.test.more == ["z"]


def test_every_preset_says_where_its_folders_come_from():
    for name in PRESETS:
        text = (conf_dir() / "data" / f"{name}.yaml").read_text()
        head = text.split("defaults:")[0]
        assert "Table 2" in head and "atr prepare clotho --root RAW/clotho --out data/clotho" in head


def test_a_run_on_the_basic_preset_scores_each_corpus(tmp_path, monkeypatch):
    """Tones stand in for the corpora; the folders are those that the preset names."""
    clips = make_clips(tmp_path / "sounds", 16)
    parts = {"train": (clips[:12], clips[12:]), "validation": (clips[:6], clips[6:9]), "test": (clips[:5], clips[9:12])}
    for split, (audiocaps, clotho) in parts.items():
        write_shards(audiocaps, tmp_path / "data" / "audiocaps" / split, codec="flac")
        write_shards(clotho, tmp_path / "data" / "clotho" / split, codec="flac")
    monkeypatch.chdir(tmp_path)
    cfg = compose_config([
        "experiment=atr_pretrain", "data=basic", "init=null", "run_dir=run", *TINY, "data.batch_size=8",
        "data.num_workers=0", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.precision=32-true",
        "trainer.log_every_n_steps=1", "schedule.warmup_steps=1", "augment=none",
    ])  # fmt: skip
    numbers = train(cfg)
    assert (numbers["audiocaps/clips"], numbers["clotho/clips"], numbers["clips"]) == (5, 3, 8)
    assert numbers["clotho/retrieval/t2a/candidates"] == 3 and 0 <= numbers["audiocaps/retrieval/a2t/R@10"] <= 1
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == numbers
    columns = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/audiocaps/loss", "train/clotho/loss", "validation/audiocaps/retrieval/t2a/R@1",
            "validation/clotho/retrieval/t2a/mAP@10", "validation/retrieval/t2a/mAP@10"} <= set(columns)  # fmt: skip
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "<td>clotho text → audio</td>" in page and "<td>all together audio → text</td>" in page
    again = evaluate_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")  # the run's own test corpora
    assert {name: scores.clips for name, scores in again.by_corpus.items()} == {"audiocaps": 5, "clotho": 3}


def test_several_corpora_by_name_take_the_place_of_a_list():
    cfg = compose_config(["data.train={a: [x, y], b: [z]}", "data.validation={a: [v]}"])
    assert cfg.data.train == {"a": ["x", "y"], "b": ["z"]} and cfg.data.validation == {"a": ["v"]}
    assert len(cfg.data.test) == 1
