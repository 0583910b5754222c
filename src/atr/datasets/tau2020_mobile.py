"""TAU Urban Acoustic Scenes 2020 Mobile: ten scenes, recorded and simulated with many devices (DCASE 2020, task 1A)."""

from collections.abc import Iterator

from atr.datasets.corpus import Card, Raw
from atr.datasets.scenes import read_scenes, zenodo_files
from atr.types import BadSample, Clip

_FOLDER = "TAU-urban-acoustic-scenes-2020-mobile-development"
CARD = Card(
    name="TAU Urban Acoustic Scenes 2020 Mobile",
    homepage="https://zenodo.org/records/3819968",
    licence="Tampere University, non-commercial research only",
    splits=("train", "test"),
    captions="none: labels",
    citation="Heittola, Mesaros, Virtanen: Acoustic scene classification in DCASE 2020 Challenge: generalization "
    "across devices and low complexity solutions. DCASE Workshop 2020, arXiv 2005.14623",
    faults=(
        "the splits are the first fold of the development set; the labels of the challenge's evaluation set are secret",
        "the devices recorded the same moments in parallel: such clips share a source",
        "clips of one place are close relatives: their sources differ, so keep the publisher's split",
        "it was made from the recordings of TAU 2019: never train on one and test on the other",
    ),
    unverified="the ten-class tables: taken from the readers of soundata and dcase_util; the three-class setup of the "
    "same year, whose tables have the same form and scene_label indoor, outdoor or transportation, was read",
    downloads=zenodo_files(
        3819968,
        _FOLDER,
        {
            "meta": (214_159, "6eae9db553ce48e4ea246e34e50a3cf5"),
            "audio.1": (1_726_039_031, "b1e85b8a908d3d6a6ab73268f385d5c8"),
            "audio.2": (1_782_268_370, "4310a13cc2943d6ce3f70eba7ba4c784"),
            "audio.3": (1_870_468_865, "ed38956c4246abb56190c1e9b602b7b8"),
            "audio.4": (1_879_413_176, "97ab8560056b6816808dedc044dcc023"),
            "audio.5": (1_823_936_584, "b50f5e0bfed33cd8e52cb3e7f815c6cb"),
            "audio.6": (1_827_246_144, "fbf856a3a86fff7520549c899dc94372"),
            "audio.7": (1_728_630_243, "0dbffe7b6e45564da649378723284062"),
            "audio.8": (1_748_646_043, "bb6f77832bf0bd9f786f965beb251b2e"),
            "audio.9": (1_780_487_215, "a65596a5372eab10c78e08a0de797c9e"),
            "audio.10": (1_726_068_853, "2ad595819ffa1d56d2de4c7ed43205a6"),
            "audio.11": (1_744_480_272, "0ad29f7040a4e6a22cfd639b3a6738e5"),
            "audio.12": (1_738_707_195, "e5f4400c6b9697295fab4cf507155a2f"),
            "audio.13": (1_835_797_785, "8855ab9f9896422746ab4c5d89d8da2f"),
            "audio.14": (1_846_390_881, "092ad744452cd3e7de78f988a3d13020"),
            "audio.15": (1_869_032_508, "4b5eb85f6592aebf846088d9df76b420"),
            "audio.16": (436_971_777, "2e0a89723e58a3836be019e6996ae460"),
        },
    ),
)


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`evaluation_setup/fold1_train.csv` and `fold1_evaluate.csv`, with the files that they name below `audio/`."""
    yield from read_scenes(raw, split, CARD, "tau2020", _FOLDER)
