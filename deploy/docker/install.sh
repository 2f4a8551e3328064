#!/bin/sh
# install.sh LIST WHEEL FOLDER: a venv that holds what the hashed list names and our wheel, and no pip.
set -eu
list=$1 wheel=$2 folder=$3
python3 -m venv --without-pip "$folder"
into() { python3 -m pip --python "$folder/bin/python" install --quiet --disable-pip-version-check --root-user-action ignore "$@"; }
into --require-hashes --requirement "$list"
into --no-deps --no-index "$wheel"
