"""TAU Urban Acoustic Scenes 2019: ten-second binaural clips of ten scenes in European cities (DCASE 2019, task 1A)."""

from collections.abc import Iterator

from atr.datasets.corpus import Card, Raw
from atr.datasets.scenes import read_scenes, zenodo_files
from atr.types import BadSample, Clip

_FOLDER = "TAU-urban-acoustic-scenes-2019-development"
CARD = Card(
    name="TAU Urban Acoustic Scenes 2019",
    homepage="https://zenodo.org/records/2589280",
    licence="Tampere University, non-commercial research only",
    splits=("train", "test"),
    captions="none: labels (MACS captions three of the scenes)",
    citation="Mesaros, Heittola, Virtanen: A multi-device dataset for urban acoustic scene classification. "
    "DCASE Workshop 2018, arXiv 1807.09840",
    faults=(
        "the splits are the first fold of the development set; the labels of the challenge's evaluation set are secret",
        "clips of one place are close relatives: their sources differ, so keep the publisher's split",
        "TAU 2020 Mobile was made from the same recordings: never train on one and test on the other",
    ),
    unverified="the tables' layout: taken from the readers of soundata and dcase_util, and from the tables of the "
    "2020 three-class setup",
    downloads=zenodo_files(
        2589280,
        _FOLDER,
        {
            "meta": (156_863, "09782f2097e4735687af73c44919329c"),
            "audio.1": (1_657_550_587, "aca4ebfd9ed03d5f747d6ba8c24bc728"),
            "audio.2": (1_666_219_450, "c4f170408ce77c8c70c532bf268d7be0"),
            "audio.3": (1_817_901_591, "c7214a07211f10f3250290d05e72c37e"),
            "audio.4": (1_821_710_642, "a6a62110f6699cf4432072acb1dffda6"),
            "audio.5": (1_803_118_466, "091a0b6d3c84b8e60e46940aa7d4a8a0"),
            "audio.6": (1_789_566_029, "114f4ca13e074391b98a1cfd8140de65"),
            "audio.7": (1_747_953_866, "5951dd2968f7a514e2afbe279c4f060d"),
            "audio.8": (1_728_724_513, "b0b63dc95b327e1509857c8d8a663cc3"),
            "audio.9": (1_667_106_209, "3c32a693a6b111ffb957be3c1dd22e9b"),
            "audio.10": (1_632_636_175, "0ffbf60006da520cc761fb74c878b98b"),
            "audio.11": (1_671_793_546, "599055d93b4c11057c29be2df54538d4"),
            "audio.12": (1_672_592_150, "98b8d162ff3665695c4c910e6c372cc8"),
            "audio.13": (1_673_481_614, "a356c08b1a5a21d433eba37ef87587f4"),
            "audio.14": (1_666_137_450, "f8969771e7faf7dd471d1cf78b0cf011"),
            "audio.15": (1_675_127_004, "4758c4b0fb7484faa632266e78850820"),
            "audio.16": (1_648_240_966, "a18acad9ede8ea76574216feb887f0bc"),
            "audio.17": (1_698_414_214, "1af7703484632f340da5c33662dc9632"),
            "audio.18": (1_731_093_704, "b67402bf3e08f4da394a7c18756c0fd2"),
            "audio.19": (1_745_153_640, "035db315f19106eb848b6f9b32bcc47c"),
            "audio.20": (1_774_038_704, "9cb28c74911bf8a3eadcf53f50a5b5d6"),
            "audio.21": (1_333_808_800, "0e44ed85c88ec036a9725b4dd1dfaea0"),
        },
    ),
)


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`evaluation_setup/fold1_train.csv` and `fold1_evaluate.csv`, with the files that they name below `audio/`."""
    yield from read_scenes(raw, split, CARD, "tau2019", _FOLDER)
