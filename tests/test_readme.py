"""What README.md names is there."""

import re

from conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_every_file_and_flag_that_the_readme_names_is_there():
    for name in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / name).exists(), name
    sources = "".join(path.read_text() for path in ROOT.glob("*/*.py"))
    flags = set(re.findall(r"`(--[a-z-]+)", README))
    assert "--recipe" in flags
    for flag in flags - {"--help"}:
        assert (
            f'add_argument(\n        "{flag}"' in sources
            or f'add("{flag}"' in sources
            or (f'add(\n        "{flag}"' in sources)
        ), flag
