#!/usr/bin/env bash
# Lint, format and tests, in a .venv of their own: bash test.sh [pytest's arguments]
set -euo pipefail
requirements=(requirements.txt requirements-dev.txt)
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/venv.sh"
cd "$root"
ruff check .
ruff format --check .
python3 -m mypy
# As many processes as cores, if the memory suffices (up to 5 GB each), a file at a time; each with
# one thread, or they would wait for each other.
export OMP_NUM_THREADS=1
python3 -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
