#!/usr/bin/env bash
# Draws a small data set, trains on it, runs the three graders' scripts, scores, makes the report: bash demo.sh [--out FOLDER]
set -euo pipefail
requirements=(requirements.txt)
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/venv.sh"
# No cd to the repository: --out is relative to where the caller is.
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec python3 "$root/demo/__main__.py" "$@"
