"""Unpacks archives from elsewhere: nothing leaves the folder, no links, no devices; all of it or nothing."""

import errno
import lzma
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from atr.errors import DataError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a zip, tar or 7z into a folder, where files of the same name are replaced.

    Raises:
        DataError: it is none, is damaged, is in several parts, or has a member that may not be unpacked; the message
            names the member. The folder is as before then.
    """
    name = archive.name.lower()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
        try:
            if name.endswith(".zip"):
                _unzip(archive, Path(temporary))
            elif name.endswith(TARS):
                _untar(archive, Path(temporary))
            elif name.endswith(".7z"):
                _un7z(archive, Path(temporary))
            else:
                raise DataError(f"{archive}: is no archive known here (zip, tar, tar.gz, 7z); unpack it by hand")
            _move(Path(temporary), folder, archive)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"{archive}: the disk of {folder}, or its quota, is full; free space, then run again"
                ) from None
            raise DataError(f"{archive}: cannot be unpacked ({error})") from error


def _unzip(archive: Path, folder: Path) -> None:
    if parts := sorted(archive.parent.glob(f"{archive.stem}.z[0-9][0-9]")):
        raise DataError(
            f"{archive}: is the last of {len(parts) + 1} parts; join them by hand with "
            f"`zip -s 0 {archive.name} --out {archive.stem}-whole.zip`, then `unzip {archive.stem}-whole.zip`, "
            "and run again without --download"
        )
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                _check(member.filename, archive)
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise DataError(f"{archive}: its member {member.filename!r} is a link; links are not unpacked")
                if member.flag_bits & 1:
                    raise DataError(f"{archive}: its member {member.filename!r} has a password; unpack it by hand")
            file.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise _damaged(archive, error) from error
    except NotImplementedError as error:
        raise DataError(f"{archive}: is packed in a way not known here ({error}); unpack it by hand") from error


def _untar(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as file:
            for member in file:
                _check(member.name, archive)
                if not (member.isfile() or member.isdir()):
                    raise DataError(f"{archive}: its member {member.name!r} is a link or a device; it is not unpacked")
                file.extract(member, folder, filter="data")
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise _damaged(archive, error) from error


def _un7z(archive: Path, folder: Path) -> None:
    try:
        import py7zr
    except ImportError:
        raise DataError(f'{archive}: 7z needs py7zr; pip install "atr[data]", or unpack it by hand') from None
    try:
        with py7zr.SevenZipFile(archive) as file:
            for name in file.getnames():
                _check(name, archive)
            file.extractall(folder)
    except (py7zr.exceptions.ArchiveError, lzma.LZMAError, EOFError) as error:
        raise _damaged(archive, error) from error


def _check(name: str, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0] or "\0" in name:
        raise DataError(f"{archive}: its member {name!r} leaves the folder; nothing was unpacked")


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(f"{archive}: is damaged ({error}); remove it, then it is fetched again")


def _move(source: Path, folder: Path, archive: Path) -> None:
    """Moves what was unpacked into place. All names are looked at first."""
    files = [Path(parent) / name for parent, folders, names in os.walk(source) for name in [*folders, *names]]
    for file in files:
        target = folder / file.relative_to(source)
        if file.is_symlink():
            raise DataError(
                f"{archive}: its member {str(file.relative_to(source))!r} is a link; links are not unpacked"
            )
        if target.is_dir() != file.is_dir() and target.exists():
            raise DataError(
                f"{archive}: its member {str(file.relative_to(source))!r} would replace {target}; move that away"
            )
        if target.parent.resolve() != folder.resolve() / file.parent.relative_to(source):
            raise DataError(f"{target.parent}: is a link out of {folder}; {archive.name} is not unpacked through it")
    for file in files:
        target = folder / file.relative_to(source)
        if file.is_dir():
            target.mkdir(exist_ok=True)
        else:
            file.replace(target)
