"""What a `.pt2` file may hold, on archives written by hand; real ones are in tests/integration."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision.errors import LoadError
from vision.runtime.pt2 import checked

Change = Callable[[dict[str, Any]], None]


def _parts() -> dict[str, Any]:
    """The records of a small program; dicts are written as JSON."""
    weight = {"path_name": "weight_0", "use_pickle": False, "tensor_meta": {}}
    constant = {"path_name": "tensor_0", "use_pickle": False, "tensor_meta": {}}
    node = {
        "target": "torch.ops.aten.relu.default",
        "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "image"}}}],
        "outputs": [{"as_tensor": {"name": "relu"}}],
        "metadata": {"stack_trace": "File secret.py", "torch_fn": "x;y"},
    }
    sizes = {"image": {"sizes": [{"as_expr": {"expr_str": "Symbol('s0', positive=True)"}}]}}
    spec = json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": []}])
    call = {"in_spec": spec, "out_spec": spec, "forward_arg_names": ["image"]}
    return {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "byteorder": b"little",
        ".data/version": b"3\n",
        "models/model.json": {
            "graph_module": {
                "graph": {"nodes": [node], "tensor_values": sizes, "custom_obj_values": {}},
                "module_call_graph": [
                    {"fqn": "", "signature": call},
                    {"fqn": "inner", "signature": None},
                ],
            },
            "range_constraints": {"s0": {"min_val": 1, "max_val": None}},
            "guards_code": ["L['image'].size()[0] >= 1"],
        },
        "data/weights/model_weights_config.json": {"config": {"w": weight}},
        "data/weights/weight_0": b"1234",
        "data/constants/model_constants_config.json": {"config": {"c": constant}},
        "data/constants/tensor_0": b"5678",
        "data/sample_inputs/model.pt": b"a pickle",
        "extra/notes.txt": b"hello",
    }


def _write(file: Path, parts: dict[str, Any], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(f"net/{name}", data if isinstance(data, bytes) else json.dumps(data))
    return file


def _relu(target: str) -> bool:
    return target == "torch.ops.aten.relu.default"


def _program(parts: dict[str, Any]) -> Any:
    return parts["models/model.json"]["graph_module"]


def test_the_copy_has_the_program_and_the_numbers_only(tmp_path: Path) -> None:
    with zipfile.ZipFile(checked(_write(tmp_path / "model.pt2", _parts()), _relu)) as archive:
        assert set(archive.namelist()) == {
            "model/archive_format",
            "model/archive_version",
            "model/byteorder",
            "model/.data/version",
            "model/models/model.json",
            "model/data/weights/model_weights_config.json",
            "model/data/weights/weight_0",
            "model/data/constants/model_constants_config.json",
            "model/data/constants/tensor_0",
            "model/data/sample_inputs/model.pt",
        }
        assert archive.read("model/data/sample_inputs/model.pt") == b""
        assert archive.read("model/data/weights/weight_0") == b"1234"
        program = json.loads(archive.read("model/models/model.json"))
    assert program["guards_code"] == []
    assert program["graph_module"]["graph"]["nodes"][0]["metadata"] == {}
    assert [entry["fqn"] for entry in program["graph_module"]["module_call_graph"]] == [""]


def _pickled_weight(parts: dict[str, Any]) -> None:
    parts["data/weights/model_weights_config.json"]["config"]["w"]["use_pickle"] = True


def _custom_constant(parts: dict[str, Any]) -> None:
    config = parts["data/constants/model_constants_config.json"]["config"]
    config["c"] = {"path_name": "opaque_obj_0", "use_pickle": False}


def _elsewhere(parts: dict[str, Any]) -> None:
    config = parts["data/weights/model_weights_config.json"]["config"]
    config["w"]["path_name"] = "../../extra/notes.txt"


def _native_code(parts: dict[str, Any]) -> None:
    parts["data/aotinductor/model/a.so"] = b"\x7fELF"


def _call(target: Any) -> Change:
    def change(parts: dict[str, Any]) -> None:
        _program(parts)["graph"]["nodes"][0]["target"] = target

    return change


def _nested_call(parts: dict[str, Any]) -> None:
    inner = {"graph": {"nodes": [{"target": "torch.os.system"}]}}
    _program(parts)["graph"]["nodes"][0]["inputs"].append({"arg": {"as_graph": inner}})


def _operator_as_value(parts: dict[str, Any]) -> None:
    given = {"arg": {"as_operator": "torch.os.system"}}
    _program(parts)["graph"]["nodes"][0]["inputs"].append(given)


def _size(text: Any) -> Change:
    def change(parts: dict[str, Any]) -> None:
        sizes = _program(parts)["graph"]["tensor_values"]["image"]["sizes"]
        sizes.append({"as_expr": {"expr_str": text}})

    return change


def _symbol(parts: dict[str, Any]) -> None:
    parts["models/model.json"]["range_constraints"]["print(1)"] = {"min_val": 0}


def _named(name: Any) -> Change:
    def change(parts: dict[str, Any]) -> None:
        _program(parts)["graph"]["nodes"][0]["outputs"][0]["as_tensor"]["name"] = name

    return change


def _argument(parts: dict[str, Any]) -> None:
    call = _program(parts)["module_call_graph"][0]["signature"]
    call["forward_arg_names"] = ["image=__import__('os').system('id')"]


def _container(parts: dict[str, Any]) -> None:
    spec = json.dumps([1, {"type": "transformers.Output", "context": "", "children_spec": []}])
    _program(parts)["module_call_graph"][0]["signature"]["out_spec"] = spec


def _objects(parts: dict[str, Any]) -> None:
    _program(parts)["graph"]["custom_obj_values"] = {"obj": {"class_fqn": "a.B"}}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_pickled_weight, "w is pickled"),
        (_custom_constant, "c is pickled"),
        (_elsewhere, "w is pickled"),
        (_native_code, "holds compiled code"),
        (_call("torch.os.system"), "calls torch.os.system, which is no operator"),
        (_call(None), "calls None"),
        (_nested_call, "calls torch.os.system"),
        (_operator_as_value, "calls torch.os.system"),
        (_size("__import__('os').system('id')"), "is no size"),
        (_size("os.system"), "is no size"),
        (_size("s0 + _x"), "is no size"),
        (_size("Symbol('a b')"), "is no size"),
        (_size("exec(1)"), "is no size"),
        (_size("[1][0]"), "is no size"),
        (_size("lambda: 1"), "is no size"),
        (_size("s0 +"), "is no size"),
        (_size(7), "is no size"),
        (_symbol, "is no size"),
        (_named("a; import os"), "is no name"),
        (_named("import"), "is no name"),
        (_named(7), "is no name"),
        (_argument, "is no name"),
        (_container, "packs arguments in transformers.Output"),
        (_objects, "holds custom objects"),
        (lambda parts: parts.update(byteorder=b"big"), "not little-endian"),
        (lambda parts: parts.pop("archive_format"), "or of a torch before 2.9"),
        (
            lambda parts: parts.pop("data/weights/model_weights_config.json"),
            "data/weights/ is pickled, as torch wrote it before 2.9",
        ),
        (lambda parts: parts.pop("data/weights/weight_0"), "no file of torch.export.save"),
        (lambda parts: parts.update({"models/model.json": b"{"}), "no file of torch.export.save"),
        (lambda parts: parts.update({"models/model.json": [1]}), "no file of torch.export.save"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, change: Change, why: str) -> None:
    parts = _parts()
    change(parts)
    file = _write(tmp_path / "model.pt2", parts)
    with pytest.raises(LoadError) as refused:
        checked(file, _relu)
    assert str(refused.value).startswith(f"{file}: ")
    assert why in str(refused.value)


@pytest.mark.parametrize(
    "text", ["Add(Symbol('s0', integer=True), Integer(1))", "s0 + 1", "2*s0 >= 3", "-s0 // 2"]
)
def test_sizes_are_arithmetic(tmp_path: Path, text: str) -> None:
    parts = _parts()
    _size(text)(parts)
    checked(_write(tmp_path / "model.pt2", parts), _relu)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """A few bytes could become gigabytes, and torch never writes one."""
    file = _write(tmp_path / "model.pt2", _parts(), zipfile.ZIP_DEFLATED)
    with pytest.raises(LoadError, match="is compressed"):
        checked(file, _relu)


def test_a_json_without_end_is_refused(tmp_path: Path) -> None:
    parts = _parts() | {"models/model.json": b"[" * 100_000}
    with pytest.raises(LoadError, match=r"no file of torch\.export\.save"):
        checked(_write(tmp_path / "model.pt2", parts), _relu)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02."])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "model.pt2"
    file.write_bytes(data)
    with pytest.raises(LoadError, match=r"no file of torch\.export\.save"):
        checked(file, _relu)


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No such file"):
        checked(tmp_path / "model.pt2", _relu)
