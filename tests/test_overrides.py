"""The overrides that a refusal names: with them the run's model is the checkpoint's."""

import pytest
from omegaconf import DictConfig, OmegaConf

from atr.config import compose_config
from atr.overrides import needed

RUN = ["experiment=finetune_clotho", "init=null"]


def model(*overrides: str) -> DictConfig:
    return compose_config([*RUN, *overrides]).model


@pytest.mark.parametrize(
    ("choices", "wanted"),
    [
        (["model/audio=htsat_base"], ["model/audio=htsat_base"]),
        (["model/audio=htsat_tiny_fused", "model/mel=clap_48k_htk"],
         ["model/audio=htsat_tiny_fused", "model/mel=clap_48k_htk"]),
        (["model/audio=htsat_base_fused", "model/mel=clap_48k_htk"],
         ["model/audio=htsat_base_fused", "model/mel=clap_48k_htk"]),
        (["model.mel.frequency_min=0"], ["++model.mel.frequency_min=0"]),
        (["model.audio.depths=[2,2,2,2]", "model.dim=256"], ["++model.audio.depths=[2,2,2,2]", "model.dim=256"]),
        (["model.text.pooling=mean"], ["model.text.pooling=mean"]),
        (["model.audio.drop_path=0.3", "model.mel.seconds=5"], []),
    ],
)  # fmt: skip
def test_with_them_the_model_is_the_checkpoints(choices, wanted):
    before = model(*choices)
    overrides = needed(before, model())
    assert overrides == wanted
    assert needed(before, model(*overrides)) == []


def test_a_text_encoder_by_name_and_back_from_a_model_with_fusion():
    text = ["model/text=roberta_demo", "model.text.pooling=mean"]
    fused = ["model/audio=htsat_base_fused", "model/mel=clap_48k_htk", *text]
    assert needed(model(), model(*fused)) == [
        "model/audio=htsat_tiny", "model/mel=clap_48k", "model/text=roberta_base", "model.text.pooling=pooler",
    ]  # fmt: skip


def test_a_text_encoder_by_its_settings():
    demo = ["model/text=roberta_demo", "model.text.pooling=pooler"]
    before = model(*demo, "model.text.config.hidden_size=64", "model.text.pooling=mean")
    assert needed(before, model(*demo)) == ["model.text.config.hidden_size=64", "model.text.pooling=mean"]


def test_an_audio_encoder_alone_asks_for_nothing_of_the_other_towers():
    before = OmegaConf.create(OmegaConf.to_container(model("model/audio=htsat_base", "model.dim=8"), resolve=True))
    del before["text"], before["dim"]
    assert needed(before, model()) == ["model/audio=htsat_base"]
