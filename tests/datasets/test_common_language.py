"""CommonLanguage from a fixture of the publisher's shape (UTF-16, tabs), and from AudioSetCaps' table."""

import pytest

from atr.datasets import common_language
from atr.datasets.corpus import MissingSplit
from atr.types import Clip
from tests.datasets.reading import put, read_split

HEAD = "\tclient_id\tpath\tsentence\tage\tgender\n"
ROWS = HEAD + "0\teng_tst_sp_1\tcommon_voice_en_1.wav\tOne day, it rained.\tnot_defined\tmale\n"
ROWS += "1\teng_tst_sp_1\tcommon_voice_en_2.wav\tZwölf\ttwenties\tnot_defined\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "English").mkdir()
    (tmp_path / "English" / "test.csv").write_text(ROWS, encoding="utf-16")
    (tmp_path / "Chinese_Taiwan").mkdir()
    (tmp_path / "Chinese_Taiwan" / "test.csv").write_text(
        HEAD + "0\tchtw_tst_sp_24\tcommon_voice_zh-TW_3.wav\t一\ttwenties\tmale\n", encoding="utf-16"
    )
    for name in ("English/test/eng_tst_sp_1/common_voice_en_1", "Chinese_Taiwan/test/x/common_voice_zh-TW_3"):
        put(tmp_path / f"{name}.wav")
    return tmp_path


def test_counts_and_the_first_clip(root):
    clips, bad = read_split(common_language, root, "test", root)
    assert clips[1] == Clip(
        id="common_voice_en_1", audio=str(root / "English/test/eng_tst_sp_1/common_voice_en_1.wav"),
        labels=["English"], split="test", source="commonvoice:common_voice_en_1", dataset="CommonLanguage",
        licence=common_language.CARD.licence,
    )  # fmt: skip
    assert (clips[0].id, clips[0].labels) == ("common_voice_zh-TW_3", ["Chinese_Taiwan"]) and len(clips) == 2
    assert [one.key for one in bad] == ["common_voice_en_2"]


def test_the_table_of_audiosetcaps(root):
    row = "common_voice_en_1.wav,common_voice_kpd/English/test/eng_tst_sp_1/common_voice_en_1.wav,English\n"
    put(root / "CommonLanguage_test.csv", "File Name,File Path,Language\n" + row)
    ((clip,), bad) = read_split(common_language, root, "zero_shot", root)
    assert (clip.id, clip.labels, clip.split, bad) == ("common_voice_en_1", ["English"], "zero_shot", [])
    assert clip.audio == str(root / "English/test/eng_tst_sp_1/common_voice_en_1.wav")


def test_what_is_missing_or_wrong_is_named(root):
    with pytest.raises(MissingSplit, match=r"holds no LANGUAGE/dev\.csv: CommonLanguage has a folder per language"):
        read_split(common_language, root, "validation")
    with pytest.raises(MissingSplit, match=r"holds no CommonLanguage_test\.csv: AudioSetCaps' table"):
        read_split(common_language, root, "zero_shot")
    table = root / "English" / "test.csv"
    table.write_text(HEAD + "0\teng\t\tOne\tteens\tmale\n", encoding="utf-16")
    clips, bad = read_split(common_language, root, "test", root)
    assert len(clips) == 1 and [(one.key, one.reason) for one in bad] == [(f"{table}:2", "has no path")]
