"""Exported programs in torch itself: what they answer, and files that would run code."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vision.config import Batching, Instances, ModelConfig, Tensor
from vision.errors import LoadError, MissingLibrary
from vision.runtime.base import Loaded
from vision.runtime.torch import Program, TorchRuntime, moved, takes_channels_last
from vision.tensors import DataType, TensorSpec

pytestmark = pytest.mark.integration

BATCH = torch.export.Dim("batch")


class Digits(torch.nn.Module):
    """A CNN of the shipped model's shape, untrained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = torch.nn.Conv2d(1, 16, 3, padding=1)
        self.two = torch.nn.Conv2d(16, 32, 3, padding=1)
        self.out = torch.nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.two(torch.relu(self.one(image))))
        return {"logits": self.out(hidden.mean((2, 3)))}


class Calls(torch.nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: torch.Tensor) -> Any:
        return self.function(*arguments)


def _save(
    file: Path, module: torch.nn.Module, *examples: torch.Tensor, dynamic: bool = True
) -> Path:
    shapes: Any = tuple({0: BATCH} for _ in examples)
    if isinstance(module, Calls):
        shapes = (shapes,)
    program = torch.export.export(
        module.eval(), examples, dynamic_shapes=shapes if dynamic else None
    )
    torch.export.save(program, file)
    return file


def _load(file: Path, **rest: Any) -> Loaded:
    return TorchRuntime().load(file, ModelConfig(instances=Instances(device="cpu"), **rest))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("digits") / "model.pt2"
    return _save(file, Digits(), torch.zeros(2, 1, 8, 8))


def test_a_program_says_what_it_takes_and_gives(digits: Path) -> None:
    loaded = _load(digits, batching=Batching(max_batch=16))
    assert loaded.inputs == (TensorSpec("image", DataType.FP32, (1, 8, 8)),)
    assert loaded.outputs == (TensorSpec("logits", DataType.FP32, (10,)),)
    assert (loaded.runtime, loaded.device, loaded.max_batch) == ("torch", "cpu", 16)
    assert loaded.memory_bytes == sum(4 * one.numel() for one in Digits().parameters())


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_batch_gives_what_the_module_gives(digits: Path, rows: int) -> None:
    loaded = _load(digits)
    instance = loaded.instance()
    images = instance.allocate(DataType.FP32, (rows, 1, 8, 8))
    images[:] = np.random.default_rng(rows).random(images.shape)
    with torch.inference_mode():
        wanted = Digits().eval()(torch.from_numpy(images))["logits"].numpy()
    np.testing.assert_allclose(instance.run({"image": images})["logits"], wanted, atol=1e-6)
    instance.close()
    loaded.close()


def test_outputs_without_names_get_the_configuration_s_or_numbers(tmp_path: Path) -> None:
    file = _save(tmp_path / "model.pt2", Calls(lambda x: (x + 1, x * 2)), torch.ones(2, 3))
    loaded = _load(file)
    assert [spec.name for spec in loaded.outputs] == ["output_0", "output_1"]
    named = _load(file, outputs=(Tensor(name="sum", shape=(3,)), Tensor(name="twice", shape=(3,))))
    (name,) = (spec.name for spec in named.inputs)
    outputs = named.instance().run({name: np.ones((1, 3), np.float32)})
    assert {key: value.tolist() for key, value in outputs.items()} == {
        "sum": [[2, 2, 2]],
        "twice": [[2, 2, 2]],
    }


def test_a_single_output_is_called_output(tmp_path: Path) -> None:
    loaded = _load(_save(tmp_path / "model.pt2", Calls(torch.neg), torch.ones(2, 3)))
    assert [spec.name for spec in loaded.outputs] == ["output"]
    outputs = loaded.instance().run({loaded.inputs[0].name: np.ones((1, 3), np.float32)})
    assert outputs["output"].tolist() == [[-1, -1, -1]]


def test_keyword_arguments_keep_their_names(tmp_path: Path) -> None:
    class Difference(torch.nn.Module):
        def forward(self, left: torch.Tensor, *, right: torch.Tensor) -> torch.Tensor:
            return left - right

    examples = {"left": torch.ones(2, 3), "right": torch.ones(2, 3)}
    program = torch.export.export(
        Difference(),
        (examples["left"],),
        {"right": examples["right"]},
        dynamic_shapes={"left": {0: BATCH}, "right": {0: BATCH}},
    )
    torch.export.save(program, tmp_path / "model.pt2")
    instance = _load(tmp_path / "model.pt2").instance()
    outputs = instance.run(
        {"right": np.ones((1, 3), np.float32), "left": np.full((1, 3), 3, np.float32)}
    )
    assert outputs["output"].tolist() == [[2, 2, 2]]


def test_a_built_in_batch_of_several_is_refused(tmp_path: Path) -> None:
    file = _save(tmp_path / "model.pt2", Digits(), torch.zeros(4, 1, 8, 8), dynamic=False)
    with pytest.raises(LoadError, match="image has a batch of 4 built in"):
        _load(file)


def test_a_program_under_no_grad_is_taken(tmp_path: Path) -> None:
    """As transformers' models have it: a call of a wrapper with a program inside."""

    def wrapped(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return x.reshape(x.shape[0], -1).mean(1, keepdim=True) + x.shape[1]

    file = _save(tmp_path / "model.pt2", Calls(wrapped), torch.ones(2, 3))
    loaded = _load(file)
    outputs = loaded.instance().run({loaded.inputs[0].name: np.ones((5, 3), np.float32)})
    assert outputs["output"].tolist() == [[4]] * 5


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: [x, [x + 1]], "returns containers in containers"),
        (lambda x: (x, 7), "is no tensor"),
        (lambda x: x.to(torch.bfloat16), "is torch.bfloat16, which is no type"),
        (lambda x: x.sum(), "has no batch axis"),
    ],
)
def test_a_program_that_does_not_fit_says_why(
    tmp_path: Path, function: Callable[..., Any], why: str
) -> None:
    file = _save(tmp_path / "model.pt2", Calls(function), torch.ones(2, 3))
    with pytest.raises(LoadError) as refused:
        _load(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert why in str(refused.value)


def test_what_config_yaml_contradicts_is_refused(digits: Path) -> None:
    with pytest.raises(LoadError, match=r"no input is called pixels; it has image"):
        _load(digits, inputs=(Tensor(name="pixels", shape=(1, 8, 8)),))


def test_cuda_without_a_device_names_the_reason(digits: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(MissingLibrary, match="device cuda: this torch finds no CUDA device"):
        TorchRuntime().load(digits, ModelConfig(instances=Instances(device="cuda")))
    assert TorchRuntime().load(digits, ModelConfig()).device == "cpu"


def test_a_missing_library_names_the_extra(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingLibrary, match=r"pip install 'sluice\[vision-torch\]'"):
        _load(digits)


def test_a_program_moves_with_the_tensors_that_it_makes(tmp_path: Path) -> None:
    """To the device `meta`, which computes shapes only and is everywhere."""
    made = Calls(lambda x: x + torch.arange(3, device="cpu"))
    program = torch.export.load(_save(tmp_path / "model.pt2", made, torch.ones(2, 3)))
    module = moved(program, "meta").module(check_guards=False)
    assert module.forward(torch.ones(5, 3, device="meta")).device.type == "meta"


class Flat(torch.nn.Module):
    """Convolves, and then flattens with a view or with a copy."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.view = view

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = self.convolution(image)
        size = (hidden.shape[0], 4 * 8 * 8)
        return hidden.view(size) if self.view else hidden.reshape(size)


@pytest.mark.parametrize("view", [True, False])
def test_weights_are_in_channels_last_order_unless_a_view_needs_the_other(
    tmp_path: Path, view: bool
) -> None:
    program = _load(_save(tmp_path / "model.pt2", Flat(view), torch.ones(2, 2, 8, 8)))
    assert isinstance(program, Program)
    dense = takes_channels_last(torch, program, "cpu")
    weights = next(one for one in program._module.parameters() if one.dim() == 4)
    assert weights.is_contiguous(memory_format=torch.channels_last) == dense
    assert weights.is_contiguous() != dense
    assert dense != view
    images = np.ones((3, 2, 8, 8), np.float32)
    (found,) = program.instance().run({"image": images}).values()
    assert found.shape == (3, 256)


def test_a_program_of_any_size_keeps_its_order(tmp_path: Path) -> None:
    program = _load(_save(tmp_path / "model.pt2", Calls(torch.neg), torch.ones(2, 3)))
    assert isinstance(program, Program)
    program.inputs = (TensorSpec("x", DataType.FP32, (None,)),)
    assert not takes_channels_last(torch, program, "cpu")


# Files that take over a process that calls `torch.export.load`.


class _Writes:
    """Unpickled, it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.target, "owned"))


def _rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def _pickled_samples(source: Path, target: Path, owned: Path) -> Path:
    def change(name: str, data: bytes) -> bytes:
        return pickle.dumps(_Writes(owned)) if "sample_inputs" in name else data

    return _rewritten(source, target, change)


def _pickled_weights(source: Path, target: Path, owned: Path) -> Path:
    def change(name: str, data: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            config = json.loads(data)
            next(iter(config["config"].values()))["use_pickle"] = True
            return json.dumps(config).encode()
        return pickle.dumps(_Writes(owned)) if name.endswith("weights/weight_0") else data

    return _rewritten(source, target, change)


def _file_operator(source: Path, target: Path, owned: Path) -> Path:
    """An operator like any other for torch: with `shared` it makes the file that it reads."""
    given = {
        "filename": {"as_string": str(owned)},
        "shared": {"as_bool": True},
        "size": {"as_int": 9},
    }

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        program = json.loads(data)
        node = program["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.ops.aten.from_file.default"
        node["inputs"] = [{"name": key, "arg": arg, "kind": 1} for key, arg in given.items()]
        return json.dumps(program).encode()

    simple = _save(target.with_name("relu.pt2"), Calls(torch.relu), torch.ones(2, 3))
    return _rewritten(simple, target, change)


def _evaluated_size(source: Path, target: Path, owned: Path) -> Path:
    code = f"__import__('pathlib').Path('{owned}').write_text('owned')"

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        found = next(part for part in data.decode().split('"') if part.startswith("Symbol("))
        return data.replace(found.encode(), code.encode())

    return _rewritten(source, target, change)


@pytest.mark.parametrize(
    "attack", [_pickled_samples, _pickled_weights, _file_operator, _evaluated_size]
)
def test_a_file_that_would_run_code_does_not(
    digits: Path, tmp_path: Path, attack: Callable[..., Path]
) -> None:
    owned = tmp_path / "owned"
    file = attack(digits, tmp_path / "model.pt2", owned)
    owned.unlink(missing_ok=True)
    if attack is _pickled_samples:  # They are left out, and the rest is good.
        _load(file)
    else:
        with pytest.raises(LoadError):
            _load(file)
    assert not owned.exists()
    # And the attack is a real one.
    with suppress(Exception):
        program = torch.export.load(file)
        program.module()(torch.zeros(2, *program.example_inputs[0][0].shape[1:]))
    assert owned.exists()
