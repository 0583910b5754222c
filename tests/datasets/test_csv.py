"""The user's own csv tables: names of columns, splits, several captions, times, bad rows."""

import pytest
import soundfile

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Raw, find_corpus
from atr.errors import DataError, UsageError
from atr.types import BadSample, Clip
from tests.conftest import tone

corpus = find_corpus("csv")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "wavs").mkdir()
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / "wavs" / f"{name}.wav", tone(300), 16_000)
    return tmp_path


def make(root, content, name="table.csv", **columns):
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Raw(root, AudioFiles(root), columns)


def rows(raw, split="all"):
    return list(corpus.read(raw, split))


def test_columns_named_like_the_fields(root):
    raw = make(
        root,
        "id,audio,caption,label,split,title,start,end,source,licence\n"
        "x1,wavs/a.wav,a tone,tone,train,A,0.1,0.5,freesound:1,CC0\n"
        "x2,wavs/b.wav,a beep,,test,,,,,\n",
    )
    assert corpus.splits(raw) == ("train", "test")
    assert rows(raw, "train") == [
        Clip(
            id="x1", audio=str(root / "wavs" / "a.wav"), captions=["a tone"], labels=["tone"], split="train",
            title="A", start=0.1, end=0.5, source="freesound:1", licence="CC0",
        )
    ]  # fmt: skip
    assert [clip.id for clip in rows(raw, "test")] == ["x2"] and rows(raw, "test")[0].start is None


def test_columns_given_and_several_captions(root):
    raw = make(
        root, "file;text_1;text_2;kind\na.wav;one;two;x\nb.wav;three;;y\n", caption="text_1, text_2", audio="file",
        label="kind",
    )  # fmt: skip
    assert corpus.splits(raw) == ("all",)
    found = rows(raw)
    assert [(c.id, c.captions, c.labels) for c in found] == [("a", ["one", "two"], ["x"]), ("b", ["three"], ["y"])]
    assert found[0].audio == str(root / "wavs" / "a.wav")  # by name, anywhere below the folder


def test_the_table_itself_and_sounds_elsewhere(root, tmp_path):
    tables = tmp_path / "tables"
    tables.mkdir()
    make(tables, "audio\tcaptions\na\thello\n", "my.tsv")
    assert rows(Raw(tables / "my.tsv", AudioFiles(root / "wavs")))[0].audio == str(root / "wavs" / "a.wav")
    raw = make(root, f"audio\n{root}/wavs/a.wav\n/etc/passwd\n../b.wav\n")
    found = rows(Raw(root / "table.csv", AudioFiles(root / "table.csv")))
    assert found[0].audio == str(root / "wavs" / "a.wav")
    assert [one.reason.partition(" ")[0] for one in found[1:]] == ["'/etc/passwd'", "'../b.wav'"]
    assert rows(Raw(raw.root, AudioFiles(None)))[2].audio == "../b.wav"  # the table only


def test_bad_rows_come_once_and_the_others_are_read(root):
    raw = make(
        root,
        "id,audio,start,end,split\n1,wavs/a.wav,x,,s\n2,,,,s\n3,wavs/b.wav,2,1,s\n4,no.wav,,,s\n5\n6,wavs/a.wav,,,t/u\n"
        "7,wavs/c.wav,,,s\n8,wavs/c.wav,,,u\n",
    )
    table = root / "table.csv"
    assert corpus.splits(raw) == ("s", "u")
    found = rows(raw, "s")
    assert found[:-1] == [
        BadSample(f"{table}:2", "'x' is no number of seconds"),
        BadSample(f"{table}:3", "names no sound file (field audio)"),
        BadSample(f"{table}:4", "ends at 1 s, which is not after its start, 2 s"),
        BadSample("4", f"no file 'no.wav' below {root}"),
        BadSample(f"{table}:6", "has 1 cells instead of 5"),
        BadSample(f"{table}:7", "its split is 't/u'; letters, digits, '_', '-' and '.' are allowed"),
    ]
    assert found[-1].id == "7"
    assert [clip.id for clip in rows(raw, "u")] == ["8"]


def test_a_row_before_the_first_good_one_comes_once(root):
    raw = make(root, "audio,split\n1\nwavs/a.wav,s\nwavs/b.wav,t\n")
    assert [type(one) for one in rows(raw, "s")] == [BadSample, Clip] and len(rows(raw, "t")) == 1
    raw = make(root, "audio,split\n1\n")
    assert corpus.splits(raw) == ("all",) and [type(one) for one in rows(raw)] == [BadSample]


def test_what_the_user_can_get_wrong(root, tmp_path):
    with pytest.raises(UsageError, match=r"'sound' is no field .* there are: id, audio, caption"):
        rows(make(root, "audio\na.wav\n", sound="file"))
    with pytest.raises(DataError, match=r"table\.csv: has no column 'audio'; its columns are 'file', 'text'"):
        rows(make(root, "file,text\na.wav,x\n"))
    with pytest.raises(DataError, match="has no column 'txt'"):
        rows(make(root, "audio,text\na.wav,x\n", caption="txt"))
    make(root, "audio\n", "other.csv")
    with pytest.raises(UsageError, match=r"holds 2 tables \(other\.csv, table\.csv, …\); give one of them"):
        rows(Raw(root, AudioFiles(root)))
    with pytest.raises(DataError, match=r"holds no table \(\*\.csv, \*\.tsv\)"):
        rows(Raw(root / "wavs", AudioFiles(root)))
    with pytest.raises(DataError, match="does not exist; give the table"):
        rows(Raw(tmp_path / "no", AudioFiles(root)))


def test_the_encoding_given(root):
    raw = Raw(make(root, "audio,caption\na.wav,개가 짖는다\n".encode("cp949")).root, AudioFiles(root), {}, "cp949")
    assert rows(raw)[0].captions == ["개가 짖는다"]


def test_the_standard_module_is_not_shadowed():
    import csv

    assert csv.reader and corpus.__name__ == "atr.datasets.csv"


def test_a_table_without_a_readable_row_says_why(root):
    raw = make(root, "audio,text\na.wav,개가 짖는다\n".encode("cp949"), caption="text")
    (bad,) = rows(raw)
    assert bad.key.endswith("table.csv:2") and "'text' holds bytes that are not utf-8" in bad.reason
    assert "--encoding cp949" in bad.reason


def test_files_of_the_same_name_in_two_folders_are_two_clips(tmp_path):
    for folder in ("dog", "cat"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "001.wav", tone(300), 16_000)
    table = tmp_path / "mine.csv"
    table.write_text(f"audio,caption\ndog/001.wav,a dog\n./cat/001.wav,a cat\n{tmp_path}/dog/001.wav,it barks\n")
    found = list(corpus.read(Raw(table, AudioFiles(tmp_path)), "all"))
    assert [(clip.id, clip.captions) for clip in found] == [
        ("dog/001", ["a dog"]), ("cat/001", ["a cat"]), ("dog/001", ["it barks"]),
    ]  # fmt: skip
    assert found[2].audio == found[0].audio == str(tmp_path / "dog" / "001.wav")
