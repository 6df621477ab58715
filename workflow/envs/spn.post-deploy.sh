#!/usr/bin/env bash
set -euo pipefail
pip install --quiet -c constraints.txt -e '.[pipeline]'
