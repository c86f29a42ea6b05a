"""Which packages may import which, and what the graders' scripts may contain."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, imported

PROBLEMS = {"p1", "p2", "p3"}


# For each package: the packages that its files may import.
MAY_IMPORT = {
    "core": set(),
    "prediction": {"core"},
    "training": {"core"},
    **{problem: {"core", "prediction", "training"} for problem in sorted(PROBLEMS)},
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_those_below_them(package):
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert packages > set(MAY_IMPORT)
    files = list((ROOT / package).glob("*.py"))
    assert files
    for path in files:
        foreign = set(imported(path)) & packages - MAY_IMPORT[package] - {package}
        assert not foreign, f"{path} imports {foreign}"


def test_predicting_needs_nothing_of_the_training():
    modules = [
        f"{problem}.{name}" for problem in sorted(PROBLEMS) for name in ("inference", "model")
    ]
    code = f"import sys; import {', '.join(modules)}, prediction.predictor; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "training" not in {name.split(".")[0] for name in done.stdout.split()}


def test_the_metric_stands_alone():
    ours = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert ours > PROBLEMS
    assert not set(imported(ROOT / "mean_iou_evaluate.py")) & (ours | {"torch", "scipy"})


@pytest.mark.parametrize(
    "script", ["hw1_1.sh", "hw1_2.sh", "hw1_3.sh", "hw1_download.sh", "hw1_download_ckpt.sh"]
)
def test_the_graders_scripts_change_nothing_on_the_machine(script):
    text = (ROOT / script).read_text()
    commands = re.sub(r"(?m)^#.*$", "", text)
    assert not re.search(r"\b(rm|sudo|cp|mv|mkdir|cd|pip|CUDA_VISIBLE_DEVICES)\b", commands)
    subprocess.run(["bash", "-n", ROOT / script], check=True)
