#!/usr/bin/env bash
# Check style, format and types and run the tests, in .venv: bash test.sh [pytest arguments]
set -euo pipefail
requirements=(requirements.txt requirements-dev.txt)
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/venv.sh"
cd "$root"
ruff check .
ruff format --check .
python3 -m mypy
# One process per core, at most 4, as each may need 5 GB of memory. Each process runs whole test
# files, with one thread, so that the processes do not wait for each other.
export OMP_NUM_THREADS=1
python3 -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
