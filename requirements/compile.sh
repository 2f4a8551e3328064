#!/bin/sh
# Writes the hashed lists from pyproject.toml. test.txt comes first: run.txt is a part of it, with the same versions.
set -eu
cd "$(dirname "$0")/.."
no_torch=$(mktemp) no_engines=$(mktemp)
trap 'rm -f "$no_torch" "$no_engines"' EXIT
echo "torch ; python_version < '3'" >"$no_torch"
# Only workers talk to engines: gateway and job runners leave the SDK and its 40 MB out.
printf "openai ; python_version < '3'\ngenai-prices ; python_version < '3'\n" >"$no_engines"
written() { uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --no-annotate "$@"; }
compile() { written --universal --python-version 3.11 "$@"; }
# For images, whose system and Python are known.
image() {
  name=$1
  shift
  written --python-platform x86_64-unknown-linux-gnu --python-version 3.11.14 --constraint requirements/test.txt \
    --output-file "requirements/$name.txt" "$@"
}
served="--extra server --extra cpu --extra embedded --extra jobs"

# shellcheck disable=SC2086
echo 'hatchling>=1.27' | compile pyproject.toml - $served --extra train --extra parquet --extra models --extra neighbours --extra traces --extra hf --extra jobs --extra dev --override "$no_torch" \
  --output-file requirements/test.txt "$@"
# shellcheck disable=SC2086
echo 'hatchling>=1.27' | compile pyproject.toml - $served --constraint requirements/test.txt \
  --output-file requirements/run.txt "$@"
printf 'grpcio-tools==1.76.0\nmypy-protobuf==3.7.0\n' | compile - --output-file requirements/protos.txt "$@"

echo 'hatchling>=1.27' | image build - "$@"
image gateway pyproject.toml --extra server --extra cpu --extra jobs --extra traces --override "$no_engines" "$@"
image jobs pyproject.toml --extra server --extra jobs --extra traces --override "$no_engines" "$@"
image worker-cpu pyproject.toml --extra server --extra cpu --extra traces "$@"
# The same torch as in the Makefile.
echo 'torch==2.13.0' | image worker-gpu pyproject.toml - --extra server --extra gpu --extra hf --extra traces "$@"
