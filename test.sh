#!/usr/bin/env bash
# Lint, format and tests, in a .venv of their own: bash test.sh [pytest's arguments]
set -euo pipefail
requirements=(requirements.txt requirements-dev.txt)
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/venv.sh"
cd "$root"
ruff check .
ruff format --check .
python3 -m mypy
python3 -m pytest "$@"
