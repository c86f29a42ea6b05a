#!/usr/bin/env bash
# Run the shipped weights on drawn images, then train on drawn images, score and make the report:
# bash demo.sh [--out FOLDER]
set -euo pipefail
requirements=(requirements.txt)
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/venv.sh"
# No cd to the repository, because --out is relative to the caller's folder.
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec python3 "$root/demo/__main__.py" "$@"
