"""Every file under conf/ composes, every experiment instantiates, a mistyped key is answered with the valid ones."""

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from atr.config import compose_config, conf_dir, demo_dir
from atr.errors import UsageError
from atr.experiment import build_data
from tests.conftest import ROOT

FILES = sorted(
    path.relative_to(conf_dir()).with_suffix("") for path in conf_dir().rglob("*.yaml") if path.parent != conf_dir()
)
EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_composes(file):
    cfg = compose_config([f"{file.parent}={file.name}"])
    assert cfg.seed == 0 and cfg.model._target_ == "atr.models.clap.Clap"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_instantiates(experiment, shards, tmp_path):
    """Stand-ins: a RoBERTa with random weights for the published one, sixteen tones for corpora."""
    fold = "${demo:esc10/fold5}" if experiment.startswith("demo") else str(shards)
    overrides = [f"experiment={experiment}", f"run_dir={tmp_path}", "init=x.ckpt", f"data.train=['{fold}']",
                 f"data.test=['{fold}']", "data.batch_size=4", "model/text=roberta_demo"]  # fmt: skip
    if not experiment.startswith("demo"):
        overrides.append(f"data.validation=['{fold}']")
    cfg = compose_config(overrides)
    OmegaConf.resolve(cfg)
    assert OmegaConf.missing_keys(cfg) == set() and cfg.name == experiment
    model = instantiate(cfg.model)
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
        ("experiment=dem", r"experiment=dem does not exist; there are: atr_pretrain, demo, demo_unseen"),
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


def test_several_corpora_by_name_take_the_place_of_a_list():
    cfg = compose_config(["data.train={a: [x, y], b: [z]}", "data.validation={a: [v]}"])
    assert cfg.data.train == {"a": ["x", "y"], "b": ["z"]} and cfg.data.validation == {"a": ["v"]}
    assert len(cfg.data.test) == 1
