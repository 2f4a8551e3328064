#!/bin/sh
# Regenerates the committed Python stubs. The compiler is old on purpose: stubs made by grpcio-tools 1.76 load on
# every protobuf from 6.31 on, newer ones refuse older runtimes. It needs a venv of its own, because it cannot
# share one with the current grpcio-health-checking.
set -eu
cd "$(dirname "$0")"
venv=${PROTO_VENV:-../.venv-protos}
if [ ! -x "$venv/bin/protoc-gen-mypy" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet grpcio-tools==1.76.0 mypy-protobuf==3.7.0
fi
PATH="$venv/bin:$PATH" "$venv/bin/python" -m grpc_tools.protoc -I. -Ithird_party \
  --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. headgate/v1/*.proto
"$venv/bin/python" -m grpc_tools.protoc -Ithird_party \
  --python_out=third_party --pyi_out=third_party buf/validate/validate.proto
