"""The list of files: what it may hold, and what the repository's own one holds."""

import json

import pytest
import torch
import torchvision
from conftest import ROOT

from checkpoints.manifest import FOLDERS, read_manifest
from core.cli import InputError
from p3.model import DeepLabv3, FCN32s, load_pretrained

OURS = ROOT / "checkpoints" / "manifest.json"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", "[" * 100_000, '{"checkpoints": 3}']
    + [
        f'{{"checkpoints": [{entry}]}}'
        for entry in (
            '"a.pt"',
            '{"bytes": 3}',
            '{"name": "../a.pt"}',
            '{"name": "a.pt", "bytes": "many"}',
            '{"name": "a.pt", "sha256": "abcd"}',
            '{"name": "a.pt", "url": "file:///etc/passwd"}',
        )
    ],
)
def test_a_broken_manifest_is_bad_input(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json is broken"):
        read_manifest(tmp_path / "manifest.json", "checkpoints")


def test_the_repositorys_manifest():
    content = json.loads(OURS.read_text())
    assert list(content) == list(FOLDERS)
    for what, entries in content.items():
        assert len(read_manifest(OURS, what)) == len(entries)
        assert len({entry["name"] for entry in entries}) == len(entries)
        for entry in entries:
            assert {"name", "bytes", "sha256", "licence", "what", "score"} <= entry.keys(), entry
            assert "url" in entry or "drive_id" in entry, entry
            assert entry["licence"] and "\n" not in entry["what"]
            if what != "data":
                assert entry["sha256"] or entry["sha256_prefix"] in entry["name"], entry
            if what == "checkpoints":
                assert (OURS.parent / entry["name"]).stat().st_size == entry["bytes"] <= 50_000_000


def test_what_is_listed_for_problem_3_is_what_its_networks_start_from():
    listed = json.loads(OURS.read_text())["pretrained"]
    names = [entry["name"].rsplit("-", 1)[0] for entry in listed if "problem 3" in entry["what"]]
    assert len(names) == 2
    with torch.device("meta"):  # shapes are all that is asked of
        for name in names:
            network = FCN32s() if name.startswith("vgg") else DeepLabv3()
            options = {"weights_backbone": None, "aux_loss": True} if "deeplab" in name else {}
            weights = torchvision.models.get_model(name, weights=None, **options).state_dict()
            assert "without" in load_pretrained(network, weights, name)
