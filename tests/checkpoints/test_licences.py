"""The licences of the packages, weights and data are listed, none is forgotten."""

import json

import pytest
from conftest import ROOT

from checkpoints import licences
from core.cli import InputError


def test_each_package_and_each_file_is_listed_with_its_licence(call):
    status, out, _ = call(licences.main)
    assert not status
    listed = json.loads((ROOT / "checkpoints" / "manifest.json").read_text())
    for one in (one for files in listed.values() for one in files):
        assert f"/{one['name']}: {one['licence']}" in out
    assert "requirements.txt: torch 2" in out and "requirements-dev.txt: hypothesis 6" in out
    of_packages = [line for line in out.splitlines() if line.startswith("requirements")]
    texts = [(ROOT / name).read_text() for name in licences.REQUIREMENTS]
    named = [line for text in texts for line in text.splitlines() if line and line[0] != "#"]
    assert len(of_packages) == len(named)


def test_a_package_that_is_missing_or_a_manifest_without_licences_is_said(tmp_path):
    (tmp_path / "requirements.txt").write_text("# why\nno-such-package-here>=1  # because\n")
    assert list(licences.of_packages(tmp_path / "requirements.txt")) == [
        "requirements.txt: no-such-package-here: not installed"
    ]
    entries = {name: [] for name in ("checkpoints", "pretrained")} | {"data": [{"name": "a.zip"}]}
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    assert list(licences.of_files(tmp_path / "manifest.json")) == [
        f"hw1_data/a.zip: {licences.UNKNOWN}"
    ]
    with pytest.raises(InputError, match="cannot read the manifest"):
        list(licences.of_files(tmp_path / "none.json"))
