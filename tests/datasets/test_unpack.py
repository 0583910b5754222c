"""Archives from elsewhere, also hostile and damaged ones."""

import io
import sys
import tarfile
import zipfile

import pytest

from atr.datasets.unpack import unpack
from atr.errors import DataError


def make_tar(path, *members, mode="w"):
    with tarfile.open(path, mode) as file:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
            file.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.xz", "w:xz")]
)
def test_tars(tmp_path, name, mode):
    make_tar(tmp_path / name, ("in/x.txt", tarfile.REGTYPE, b"X"), ("y.txt", tarfile.REGTYPE, b"Y"), mode=mode)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "mine.txt").write_text("stays")
    (tmp_path / "in" / "x.txt").write_text("old")
    unpack(tmp_path / name, tmp_path)
    assert (tmp_path / "in" / "x.txt").read_text() == "X" and (tmp_path / "y.txt").read_text() == "Y"
    assert (tmp_path / "in" / "mine.txt").read_text() == "stays"
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([name, "in", "y.txt"])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../evil", tarfile.REGTYPE, "'../evil' leaves the folder"),
        ("/evil", tarfile.REGTYPE, "'/evil' leaves the folder"),
        ("c:\\evil", tarfile.REGTYPE, "leaves the folder"),
        ("link", tarfile.SYMTYPE, "'link' is a link or a device"),
        ("link", tarfile.LNKTYPE, "'link' is a link or a device"),
        ("dev", tarfile.CHRTYPE, "'dev' is a link or a device"),
        ("pipe", tarfile.FIFOTYPE, "'pipe' is a link or a device"),
    ],
)
def test_members_of_tars_that_are_refused(tmp_path, name, kind, message):
    make_tar(tmp_path / "a.tar", ("ok.txt", tarfile.REGTYPE, b"x"), (name, kind, b""))
    with pytest.raises(DataError, match=message.replace("\\", "\\\\").replace(".", r"\.")):
        unpack(tmp_path / "a.tar", tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.tar"]


def test_zips_that_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for member, message in [(link, "'link' is a link"), ("/etc/evil", "leaves"), ("a/../../evil", "leaves")]:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("ok.txt", "x")
            file.writestr(member, "/etc/passwd")
        with pytest.raises(DataError, match=message):
            unpack(path, tmp_path)
        assert [one.name for one in tmp_path.iterdir()] == ["a.zip"]


def test_damaged_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.txt", "hello hello")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"hello hello", b"hello hullo", 1))
    with pytest.raises(DataError, match=r"a\.zip: is damaged \(Bad CRC-32 for file 'x\.txt'\); remove it, then"):
        unpack(tmp_path / "a.zip", tmp_path)
    make_tar(tmp_path / "b.tar.gz", ("x", tarfile.REGTYPE, bytes(range(256)) * 500), mode="w:gz")
    (tmp_path / "b.tar.gz").write_bytes((tmp_path / "b.tar.gz").read_bytes()[:-300])
    for name in ("b.tar.gz", "c.tar", "d.zip"):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=f"{name}: is damaged"):
            unpack(tmp_path / name, tmp_path)
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.txt").exists()


def test_parts_and_unknown_archives(tmp_path):
    for name in ("a.z01", "a.z02", "a.zip", "a.rar"):
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"is the last of 3 parts; join them by hand with `zip -s 0 a\.zip --out a-whole\.zip`"
    ):
        unpack(tmp_path / "a.zip", tmp_path)
    with pytest.raises(
        DataError, match=r"a\.rar: is no archive known here \(zip, tar, tar\.gz, 7z\); unpack it by hand"
    ):
        unpack(tmp_path / "a.rar", tmp_path)


def test_a_link_in_the_folder_is_not_followed(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "root" / "in").symlink_to(tmp_path / "out")
    make_tar(tmp_path / "root" / "a.tar", ("in/x", tarfile.REGTYPE, b"x"))
    with pytest.raises(DataError, match="is a link out of"):
        unpack(tmp_path / "root" / "a.tar", tmp_path / "root")
    assert not list((tmp_path / "out").iterdir())


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "in").write_text("mine")
    make_tar(tmp_path / "a.tar", ("in/x", tarfile.REGTYPE, b"x"))
    with pytest.raises(DataError, match=r"its member 'in' would replace .*in; move that away"):
        unpack(tmp_path / "a.tar", tmp_path)
    assert (tmp_path / "in").read_text() == "mine"


def test_7z(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "py7zr", None)
        (tmp_path / "a.7z").touch()
        with pytest.raises(DataError, match=r'7z needs py7zr; pip install "atr\[data\]", or unpack it by hand'):
            unpack(tmp_path / "a.7z", tmp_path)
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as file:
        file.writestr(b"X", "in/x.txt")
    unpack(tmp_path / "a.7z", tmp_path)
    assert (tmp_path / "in" / "x.txt").read_bytes() == b"X"
    (tmp_path / "a.7z").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"a\.7z: is damaged"):
        unpack(tmp_path / "a.7z", tmp_path)
