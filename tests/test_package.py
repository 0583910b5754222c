"""The wheel holds conf/ and data/ inside the package; an editable install holds neither, so it cannot go stale."""

import subprocess
import sys
import zipfile

import pytest

from atr.config import conf_dir
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Both kinds of wheel, made by the build backend itself (no network needed)."""
    folder = tmp_path_factory.mktemp("wheels")
    for hook in ("build_wheel", "build_editable"):
        (folder / hook).mkdir()
        code = f"import hatchling.build as b; b.{hook}({str(folder / hook)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    return {hook: next((folder / hook).glob("*.whl")) for hook in ("build_wheel", "build_editable")}


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_configuration_file_inside_the_package(wheels):
    held = names(wheels["build_wheel"])
    files = [f"atr/conf/{path.relative_to(conf_dir())}" for path in conf_dir().rglob("*.yaml")]
    assert set(files) <= set(held) and len(files) > 20
    assert {name.split("/")[0].split("-")[0] for name in held} == {"atr"}
    assert "atr/data/esc10/fold5/00000.tar" in held and "atr/data/esc10/ATTRIBUTION.md" in held
    assert {"atr/evaluation/report.html.j2", "atr/interop/card.md.j2"} <= set(held)


def test_the_editable_install_is_a_path_to_the_checkout_and_nothing_else(wheels):
    held = [name for name in names(wheels["build_editable"]) if ".dist-info/" not in name]
    assert held == ["_atr.pth"]
    with zipfile.ZipFile(wheels["build_editable"]) as archive:
        assert archive.read("_atr.pth").decode().strip() == str(ROOT / "src")


def test_the_unpacked_wheel_trains_without_the_checkout(wheels, tmp_path):
    with zipfile.ZipFile(wheels["build_wheel"]) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\nimport atr.config, atr.cli\n"
        f"assert atr.config.conf_dir() == atr.config._PACKAGE / 'conf', atr.config.conf_dir()\n"
        f"assert str(atr.config._PACKAGE).startswith({str(tmp_path)!r})\n"
        "sys.argv = 'atr train trainer.max_steps=2 data.batch_size=8 data.num_workers=0'.split()\natr.cli.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("runs/demo/*/metrics.json"))) == 1
