"""The flags of the training commands: where a training starts from."""

import argparse
from pathlib import Path

import pytest
from torch import nn

from core.cli import InputError
from core.efficientnet_lite import imagenet_file
from p1 import model as p1
from p3 import model as p3
from training import flags


def start_of(network, given, named):
    """What ``--pretrained given`` and a recipe that names ``named`` start from."""
    args = argparse.Namespace(pretrained=given)
    recipe = argparse.Namespace(name="x", pretrained=named)
    return flags.initial_weights(args, recipe, network), args.pretrained


def test_a_training_starts_from_what_the_recipe_names_unless_the_flag_names_another(tmp_path):
    network, file = nn.Linear(1, 1), tmp_path / "last.pt"
    with pytest.raises(InputError, match=r"recipe x starts from .*last.pt, which does not exist"):
        start_of(network, None, str(file))
    file.touch()
    assert start_of(network, None, str(file)) == (file, str(file))
    assert start_of(network, "other.pt", str(file)) == (Path("other.pt"), "other.pt")
    assert start_of(network, "none", str(file)) == (None, None)
    assert start_of(network, None, "") == (None, None)


def test_only_model_c_starts_from_imagenet():
    for network in (p1.mobilenet_v2(50), p3.DeepLabv3()):
        with pytest.raises(InputError, match="model C"):
            start_of(network, "imagenet", "")
    file, name = start_of(p1.build("efficientnet_lite0_64", 50), None, "imagenet")
    assert file == imagenet_file("lite0") and name == "imagenet"
