#!/usr/bin/env bash
# Usage: bash hw1_download.sh [checkpoints|pretrained|data]    each file is present, verified, or fetched; --help says more
exec env HW1_PROGRAM=hw1_download.sh python3 "$(dirname -- "${BASH_SOURCE[0]}")/checkpoints/download.py" "$@"
