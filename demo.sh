#!/usr/bin/env bash
# The weights that ship on drawn images; then trains on such images, scores, makes the report page:
# bash demo.sh [--out FOLDER]
set -euo pipefail
requirements=(requirements.txt)
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/venv.sh"
# No cd to the repository: --out is relative to where the caller is.
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec python3 "$root/demo/__main__.py" "$@"
