"""Tables as they come: byte order marks, encodings, quotes, what spreadsheets do to ids. Real bytes, exact lines."""

import pytest

from atr.datasets.tables import find_delimiter, read_table, seconds, youtube_id
from atr.errors import DataError
from atr.types import BadSample


@pytest.fixture
def table(tmp_path):
    def read(content, columns=("id", "caption"), **options):
        path = tmp_path / "table.csv"
        path.write_bytes(content)
        rows = []
        for row in read_table(path, columns, **options):
            place = (row.key if isinstance(row, BadSample) else row.where).rpartition(":")
            assert place[0] == str(path)
            rows.append((int(place[2]), row.reason if isinstance(row, BadSample) else tuple(row.cells.values())))
        return rows

    return read


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"\xef\xbb\xbfid,caption\n1,caf\xc3\xa9\n", "utf-8"),
        (b"\xef\xbb\xbfid,caption\n1,caf\xc3\xa9\n", "latin-1"),  # the mark knows better
        ("id,caption\r\n1,café\r\n".encode("utf-16"), "utf-8"),
        (b"\xfe\xff" + "id,caption\n1,café\n".encode("utf-16-be"), "utf-8"),
        (b"id,caption\n1,caf\xe9\n", "latin-1"),
        (b"id,caption\r1,caf\xc3\xa9\r", "utf-8"),  # line ends of old Macs
    ],
)
def test_encodings_and_line_ends(table, content, encoding):
    assert table(content, encoding=encoding) == [(2, ("1", "café"))]


def test_cp949(table):
    content = "id,caption\n1,개가 짖는다\n".encode("cp949")
    assert table(content, encoding="cp949") == [(2, ("1", "개가 짖는다"))]
    ((line, reason),) = table(content)
    assert line == 2 and reason.startswith("'caption' holds bytes that are not utf-8 (b'\\xb0\\xb3")
    assert reason.endswith("give its encoding, e.g. --encoding cp949 or latin-1")


def test_bytes_of_another_encoding_cost_their_row_only(table):
    content = b"id,caption,title\n1,caf\xe9,a\n2,tea,caf\xe9\n3,milk,c\n"
    rows = table(content)
    assert rows[0][0] == 2 and rows[0][1].startswith("'caption' holds bytes that are not utf-8 (b'caf\\xe9')")
    assert rows[1:] == [(3, ("2", "tea", "caf\ufffd")), (4, ("3", "milk", "c"))]
    with pytest.raises(DataError, match=r"has no column 'caption'.*bytes that are not utf-8.*cp949"):
        table("id,설명\n1,a\n".encode("cp949"))


def test_broken_utf16(table):
    content = "id,caption\n1,a\n2,b".encode("utf-16")
    assert table(content[:-1]) == [
        (2, ("1", "a")),
        (3, "'caption' holds bytes that are not utf-16 (b'\\xef\\xbf\\xbd'); give its encoding, "
            "e.g. --encoding cp949 or latin-1"),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"NUL bytes: is it UTF-16 without its mark\? Give --encoding"):
        table("id,caption\n1,a\n".encode("utf-16-le"))
    assert table("id,caption\n1,ä\n".encode("utf-16-le"), encoding="utf-16-le") == [(2, ("1", "ä"))]
    with pytest.raises(DataError, match="cannot be read as utf-16"):
        table(b"id,caption\n", encoding="utf-16")


def test_lines_are_counted_through_comments_blank_lines_and_cells_of_many_lines(table):
    content = b'# about\n\nid,caption\n# more\n1,"a\n# no comment\n\nb"\n\n2,c\n3\n4,d\n'
    assert table(content, comment="#") == [
        (5, ("1", "a\n# no comment\n\nb")),
        (10, ("2", "c")),
        (11, "has 1 cells instead of 2"),
        (12, ("4", "d")),
    ]


def test_quotes_doubled_and_delimiters_in_cells(table):
    assert table(b'id,caption\n1,"a ""loud"", low\r\nhum"\r\n') == [(2, ("1", 'a "loud", low\r\nhum'))]


@pytest.mark.parametrize(
    ("tail", "after"),
    [
        (b"", []),
        (b'5,"fine"\n', [(6, ("5", "fine"))]),
        (b'5,""\n', [(6, ("5", ""))]),
        (b'5,", fine"\n', [(6, ("5", ", fine"))]),
    ],
)
def test_a_quote_that_is_not_closed_costs_its_row_only(table, tail, after):
    rows = table(b'id,caption\n1,a\n2,"never closed\n3,c\n4,d\n' + tail)
    assert rows[0] == (2, ("1", "a"))
    assert rows[1][0] == 3 and ("is a quote missing" in rows[1][1] or "cells instead of 2" in rows[1][1])
    assert rows[2:] == [(4, ("3", "c")), (5, ("4", "d")), *after]


def test_a_quote_that_is_not_closed_in_a_long_table(table):
    body = b"".join(b"%d,a caption of some length\n" % number for number in range(3, 100_003))
    rows = table(b'id,caption\n1,a\n2,"open\n' + body)
    assert len(rows) == 100_002
    assert [line for line, cells in rows if isinstance(cells, str)] == [3]
    assert rows[-1] == (100_003, ("100002", "a caption of some length"))


def test_a_stray_quote_is_named(table):
    ((line, reason),) = table(b'id,caption\n1,"a "loud" dog"\n')
    assert line == 2 and "is a quote missing, or not doubled" in reason
    with pytest.raises(DataError, match=r"table\.csv: its first line is no row of a csv table"):
        table(b'id,"caption\n1,a\n')


@pytest.mark.parametrize("value", ["#NAME?", "#REF!", "1.23E+11", "1E+10", "1.20E+05"])
def test_what_a_spreadsheet_left_is_named(table, value):
    rows = table(f"id,caption\n{value},a\n2,b\n".encode())
    assert rows[0][0] == 2 and rows[0][1].startswith(f"'id' is {value}, which a spreadsheet ")
    assert rows[1] == (3, ("2", "b"))


def test_ids_with_blanks_and_dashes(table):
    assert table(b"id,caption\n -0DdlOuIFUI,a\n-mb9jlbiVF4 ,b\n=1E23,c\n") == [
        (2, ("-0DdlOuIFUI", "a")),
        (3, ("-mb9jlbiVF4", "b")),
        (4, ("=1E23", "c")),
    ]
    assert youtube_id(" ZEwLzg9NIaE") == "ZEwLzg9NIaE"
    assert youtube_id("wJVRW8UM") is None and youtube_id("ZEwLzg9NIaE\nx") is None


def test_nul_bytes(table):
    rows = table(b"id,caption\n1,a\0b\n2,c\n" + b"\0" * 20)
    assert rows == [
        (2, "'caption' holds NUL bytes: the file is damaged, or is UTF-16 without its mark (--encoding utf-16-le)"),
        (3, ("2", "c")),
        (4, "has 1 cells instead of 2"),
    ]


def test_a_missing_column(table):
    with pytest.raises(DataError, match=r"table\.csv: has no column 'caption'; its columns are 'id', 'text'$"):
        table(b"id,text\n1,a\n")
    with pytest.raises(DataError, match="is empty; its first line should name the columns"):
        table(b"")


@pytest.mark.parametrize(("sign", "name"), [(b"\t", "tabs"), (b";", "semicolons"), (b"|", "bars")])
def test_another_delimiter_is_hinted_at(table, sign, name):
    content = sign.join([b"id", b"caption"]) + b"\n" + sign.join([b"1", b"a, b"]) + b"\n"
    with pytest.raises(DataError, match=f"has no column 'id', 'caption'.*separated by {name}, not by commas"):
        table(content)
    assert table(content, delimiter=sign.decode()) == [(2, ("1", "a, b"))]


def test_the_delimiter_of_a_table(tmp_path):
    path = tmp_path / "t"
    for content, expected in [(b"a;b,c;d\n", ";"), (b"\n\na\tb\n", "\t"), (b"audio\n", ","), (b"", ",")]:
        path.write_bytes(content)
        assert find_delimiter(path, "utf-8") == expected


def test_columns_of_the_same_name(table):
    with pytest.raises(DataError, match="has 2 columns called 'caption'; rename all but one"):
        table(b"id,caption,caption\n1,a,b\n")
    assert table(b"id,caption,x,x\n1,a,b,c\n") == [(2, ("1", "a", "b"))]  # not needed: the first counts


def test_files_and_encodings_that_are_not_there(tmp_path, table):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_table(tmp_path / "none.csv", ["id"]))
    with pytest.raises(DataError, match="no encoding is called 'klingon'; try utf-8, cp949 or latin-1"):
        table(b"id\n", encoding="klingon")


def test_seconds():
    assert seconds("1.5", "t:1") == 1.5
    assert seconds("x", "t:1") == BadSample("t:1", "'x' is no number of seconds")
    for text in ("-1", "nan", "inf"):
        assert seconds(text, "t:1") == BadSample("t:1", f"{text} s is no time in a recording")
