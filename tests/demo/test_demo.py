"""demo.sh is started from anywhere. What it runs has its own tests; the whole takes minutes."""

import os
import shutil
import subprocess
import sys

from conftest import ROOT


def test_out_is_relative_to_the_callers_folder(tmp_path):
    repository, here = tmp_path / "the repository", tmp_path / "some where"
    for folder in (
        repository / "demo",
        repository / "core",
        repository / ".venv" / "bin",
        here / "demo",
    ):
        folder.mkdir(parents=True)
    for name in ("demo.sh", "venv.sh", "requirements.txt"):
        shutil.copy(ROOT / name, repository)
    shutil.copy(ROOT / "requirements.txt", repository / ".venv")  # as if installed
    (repository / ".venv" / "bin" / "python3").symlink_to(sys.executable)
    (repository / "core" / "__init__.py").touch()
    (repository / "demo" / "__init__.py").touch()
    (repository / "demo" / "__main__.py").write_text(
        "import sys, core, demo\nfrom pathlib import Path\nprint(demo.__file__, Path(sys.argv[2]).resolve())\n"
    )
    (
        here / "demo" / "__init__.py"
    ).touch()  # a stranger's folder of the same name must not get in the way
    command = ["bash", os.path.relpath(repository / "demo.sh", here), "--out", "out put"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (
        0,
        f"{repository / 'demo' / '__init__.py'} {here / 'out put'}\n",
    ), done.stderr
