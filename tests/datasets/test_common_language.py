"""CommonLanguage from files that lie as the publisher's, and from AudioSetCaps' table."""

import pytest

from atr.datasets import common_language
from atr.datasets.corpus import MissingSplit
from atr.types import Clip
from tests.datasets.reading import put, read_split


@pytest.fixture
def root(tmp_path):
    for name in (
        "English/test/eng_tst_sp_1/common_voice_en_1.wav",
        "English/dev/eng_dev_sp_9/common_voice_en_2.wav",
        "Chinese_Taiwan/test/chtw_tst_sp_24/common_voice_zh-TW_3.wav",
        "noise.wav",
    ):
        put(tmp_path / "common_voice_kpd" / name)
    return tmp_path


def test_counts_and_the_first_clip(root):
    clips, bad = read_split(common_language, root, "test", root)
    inner = root / "common_voice_kpd"
    assert clips[0] == Clip(
        id="common_voice_zh-TW_3", audio=str(inner / "Chinese_Taiwan/test/chtw_tst_sp_24/common_voice_zh-TW_3.wav"),
        labels=["Chinese_Taiwan"], split="test", source="commonvoice:common_voice_zh-TW_3", dataset="CommonLanguage",
        licence=common_language.CARD.licence,
    )  # fmt: skip
    assert [(clip.id, clip.labels) for clip in clips[1:]] == [("common_voice_en_1", ["English"])]
    assert [(one.key, one.reason) for one in bad] == [
        ("noise", f"{inner / 'noise.wav'} does not lie in LANGUAGE/train, dev or test/SPEAKER")
    ]
    assert [clip.id for clip in read_split(common_language, root, "validation", root)[0]] == ["common_voice_en_2"]


def test_the_table_of_audiosetcaps(root):
    row = "common_voice_en_1.wav,common_voice_kpd/English/test/eng_tst_sp_1/common_voice_en_1.wav,English\n"
    put(root / "CommonLanguage_test.csv", "File Name,File Path,Language\n" + row)
    ((clip,), bad) = read_split(common_language, root, "zero_shot", root)
    assert (clip.id, clip.labels, clip.split, bad) == ("common_voice_en_1", ["English"], "zero_shot", [])
    assert clip.audio == str(root / "common_voice_kpd/English/test/eng_tst_sp_1/common_voice_en_1.wav")


def test_what_is_missing_is_named(root):
    with pytest.raises(MissingSplit, match=r"no sound files below .*/dev: the labels are the names of the folders"):
        put(root / "dev" / "x.txt")
        read_split(common_language, root, "validation", root / "dev")
    with pytest.raises(MissingSplit, match=r"holds no CommonLanguage_test\.csv: AudioSetCaps' table"):
        read_split(common_language, root, "zero_shot")
