"""The generated messages are those of `inference.proto`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from tests.support.process import ROOT
from vision.api import inference_pb2 as pb


def test_generating_them_anew_gives_the_same(tmp_path: Path) -> None:
    """Descriptors are compared, for generators of different versions write different files."""
    told = tmp_path / "descriptors"
    generator = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=."]
    subprocess.run(
        [*generator, f"--descriptor_set_out={told}", "vision/api/inference.proto"],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    (fresh,) = FileDescriptorSet.FromString(told.read_bytes()).file
    committed = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(committed)
    for file in (fresh, committed):
        for message in file.message_type:
            without_derived_names(message)
    assert fresh == committed


def without_derived_names(message: DescriptorProto) -> None:
    """Drop the fields' JSON names: they follow from the names, and only some tools add them."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        without_derived_names(nested)
