#!/usr/bin/env bash
# Draws a small data set, trains on it, runs the three graders' scripts, scores, makes the report: bash demo.sh [--out FOLDER]
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/venv.sh"
cd "$root"
exec python3 -m demo "$@"
