"""The flags of the training commands: where a training starts from."""

import argparse
import math
import os
from pathlib import Path

import pytest
from conftest import words

from core import cli
from core.cli import InputError
from core.efficientnet_lite import imagenet_file
from p1.model import ARCHITECTURE
from p3.model import OF_MODEL
from training import flags


def start_of(given, named, architecture=ARCHITECTURE):
    """What ``--pretrained given`` and a recipe that names ``named`` start from."""
    args = argparse.Namespace(pretrained=given)
    recipe = argparse.Namespace(name="x", pretrained=named)
    return flags.initial_weights(args, recipe, architecture), args.pretrained


def test_a_training_starts_from_what_the_recipe_names_unless_the_flag_names_another(tmp_path):
    file = tmp_path / "last.pt"
    with pytest.raises(InputError, match=r"recipe x starts from .*last.pt, which does not exist"):
        start_of(None, str(file))
    file.touch()
    assert start_of(None, str(file)) == (file, str(file))
    assert start_of("other.pt", str(file)) == (Path("other.pt"), "other.pt")
    assert start_of("none", str(file)) == (None, None)
    assert start_of(None, "") == (None, None)


def test_only_model_c_starts_from_imagenet():
    for architecture in (ARCHITECTURE, OF_MODEL["A"], OF_MODEL["B"]):
        with pytest.raises(InputError, match="model C"):
            start_of("imagenet", "", architecture)
    for architecture in ("efficientnet_lite0_64", OF_MODEL["C"]):
        expected = (imagenet_file("lite0"), "imagenet")
        assert start_of(None, "imagenet", architecture) == expected
    lite2 = start_of(None, "imagenet", "efficientnet_lite2_64")
    assert lite2 == (imagenet_file("lite2"), "imagenet")
    with pytest.raises(InputError, match="but not for lite1"):
        start_of(None, "imagenet", "efficientnet_lite1_64")


def test_data_memory_is_in_gibibytes_and_half_of_the_free_memory_by_default(monkeypatch):
    def parse(*given):
        return flags.command_line("", data="data", run="run").parse_args(given).data_memory

    assert parse("--data-memory", "1.5") == 3 * 2**29 and parse("--data-memory", "0") == 0
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert parse() < machine
    monkeypatch.setattr(cli, "free_memory", lambda: 1000)
    assert parse() == 500
    for senseless in ("-1", "nan", "inf", "much"):
        for flag in ("--data-memory", "--max-minutes", "--save-minutes"):
            with pytest.raises(InputError):
                parse(flag, senseless)
    assert parse("--data-memory", "1e300") == 1e300 * 2**30


def test_a_runs_options_are_the_flags():
    given = words("--seed 3 --fresh --save-minutes 2")
    args = flags.command_line("", data="data", run="run").parse_args(given)
    options = {"seed": 3, "fresh": True, "stop_at": math.inf, "save_minutes": 2.0}
    assert flags.run_options(args) == options


def test_a_tuned_run_continues_a_tuned_run():
    """Another run has learned from the images that are held out."""
    for named, says in (
        ("runs/p1_C_best/last.pt", "runs/p1_C_best_tune/last.pt, which does not exist"),
        ("runs/p3_pretrain_A_best/last.pt", "runs/p3_pretrain_A_best/last.pt, which"),
    ):
        args = argparse.Namespace(pretrained=None, tune=True)
        with pytest.raises(InputError, match=says):
            flags.initial_weights(args, argparse.Namespace(name="x", pretrained=named), "any")
