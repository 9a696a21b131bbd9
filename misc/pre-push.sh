#!/bin/bash
# Before a push: the whole suite, on servers of its own.
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
exec make test
