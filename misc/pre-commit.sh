#!/bin/bash
# Before a commit: what CI checks first.
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
exec make check
