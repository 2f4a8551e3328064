#!/bin/sh
# Writes the hashed lists from pyproject.toml. test.txt comes first: run.txt is a part of it, with the same versions.
set -eu
cd "$(dirname "$0")/.."
no_torch=$(mktemp)
trap 'rm -f "$no_torch"' EXIT
echo "torch ; python_version < '3'" >"$no_torch"
compile() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
    --no-annotate "$@"
}
served="--extra server --extra cpu --extra embedded --extra jobs"

# shellcheck disable=SC2086
echo 'hatchling>=1.27' | compile pyproject.toml - $served --extra train --extra parquet --extra models --extra hf --extra jobs --extra dev --override "$no_torch" \
  --output-file requirements/test.txt "$@"
# shellcheck disable=SC2086
echo 'hatchling>=1.27' | compile pyproject.toml - $served --constraint requirements/test.txt \
  --output-file requirements/run.txt "$@"
printf 'grpcio-tools==1.76.0\nmypy-protobuf==3.7.0\n' | compile - --output-file requirements/protos.txt "$@"
