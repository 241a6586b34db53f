#!/bin/sh
# Generate vision/api/inference_pb2.py and its types from inference.proto.
#
# The generator is pinned: messages made by it load under protobuf 6.30 and newer (a runtime reads
# what an older one of its own or the last major version made, never what a newer one made).
set -eu
cd "$(dirname "$0")/.."
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check grpcio-tools==1.72.2
"$venv/bin/python" -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. \
  vision/api/inference.proto
