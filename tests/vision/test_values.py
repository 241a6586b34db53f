"""Numbers in JSON and in bytes: what becomes an array, and what is refused and how."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vision import values
from vision.errors import BadInput
from vision.tensors import DataType, TensorSpec, data_type_of
from vision.values import InferTensor, from_flat, from_json, from_raw, read_row, read_tensors

IMAGE = TensorSpec("pixels", DataType.FP32, (1, 2))
DYNAMIC = TensorSpec("ids", DataType.INT64, (None,))


def refused(call: Any, *args: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        call(*args)
    assert caught.value.param is not None
    return caught.value


@given(
    st.sampled_from(list(DataType)).flatmap(
        lambda dtype: arrays.arrays(
            dtype.numpy,
            arrays.array_shapes(max_dims=4, max_side=4),
            elements=None
            if dtype.numpy.kind != "f"
            else arrays.from_dtype(dtype.numpy, allow_nan=False, allow_infinity=False),
        )
    )
)
def test_every_array_comes_back_from_its_json_and_its_bytes(array: Any) -> None:
    dtype = data_type_of(array.dtype)
    read = json.loads(json.dumps(array.tolist()))
    flat = json.loads(json.dumps(array.reshape(-1).tolist()))
    for got in (
        from_json(read, dtype, array.ndim, "x"),
        from_flat(flat, dtype, array.shape, "x"),
        from_raw(array.tobytes(), dtype, array.shape, "x"),
    ):
        assert got.dtype == array.dtype
        assert got.shape == array.shape
        assert np.array_equal(got, array)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=20,
)


@given(JSON, st.sampled_from(list(DataType)), st.integers(0, 3))
def test_whatever_json_says_it_is_an_array_or_a_refusal(
    value: object, dtype: DataType, rank: int
) -> None:
    try:
        array = from_json(value, dtype, rank, "x")
    except BadInput:
        return
    assert array.dtype == dtype.numpy
    assert array.ndim <= rank
    assert array.size > 0
    assert np.isfinite(array).all()


@pytest.mark.parametrize(
    ("text", "dtype", "code", "said"),
    [
        ("[[1, 2], [3]]", "FP32", "invalid_tensor", "equally long"),
        ("[[1], 2]", "FP32", "invalid_tensor", "equally deep"),
        ("[1, [2]]", "FP32", "invalid_tensor", "a list is not"),
        ("[[[[1]]]]", "FP32", "invalid_tensor", "3 dimensions"),
        ("[]", "FP32", "invalid_tensor", "empty"),
        ("[[], []]", "FP32", "invalid_tensor", "empty"),
        ('["1"]', "FP32", "invalid_tensor", "a text"),
        ("[null]", "FP32", "invalid_tensor", "null"),
        ('[{"a": 1}]', "FP32", "invalid_tensor", "an object"),
        ("[1, true]", "FP32", "invalid_tensor", "a boolean"),
        ("[1, true]", "INT32", "invalid_tensor", "a boolean"),
        ("[1.0]", "INT32", "invalid_tensor", "a fraction"),
        ("[1]", "BOOL", "invalid_tensor", "an integer"),
        ("[NaN]", "FP32", "invalid_value", "not finite"),
        ("[-Infinity]", "FP64", "invalid_value", "not finite"),
        ("[1e999]", "FP64", "invalid_value", "not finite"),
        ("[1e39]", "FP32", "invalid_value", "not finite"),
        ("[70000]", "FP16", "invalid_value", "not finite"),
        (f"[1{'0' * 400}]", "FP64", "invalid_value", "range"),
        ("[256]", "UINT8", "invalid_value", "range"),
        ("[-1]", "UINT64", "invalid_value", "range"),
        ("[9223372036854775808]", "INT64", "invalid_value", "range"),
    ],
)
def test_what_is_wrong_is_said(text: str, dtype: str, code: str, said: str) -> None:
    refusal = refused(from_json, json.loads(text), DataType(dtype), 3, "inputs[2].x")
    assert (refusal.code, refusal.param, refusal.status) == (code, "inputs[2].x", 400)
    assert said in refusal.message


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    assert "secret" not in refused(from_json, ["secret"], DataType.FP32, 1, "x").message


def test_raw_bytes_have_to_be_just_as_many() -> None:
    for size in (0, 7, 9):
        refusal = refused(from_raw, bytes(size), DataType.FP32, (1, 2), "x")
        assert (refusal.code, f"{size} bytes" in refusal.message) == ("invalid_tensor", True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_raw_bytes_that_are_not_finite_are_refused(value: float) -> None:
    data = np.array([1, value], "<f4").tobytes()
    assert refused(from_raw, data, DataType.FP32, (2,), "x").code == "invalid_value"


def test_raw_booleans_are_zero_or_one() -> None:
    assert from_raw(b"\x00\x01", DataType.BOOL, (2,), "x").tolist() == [False, True]
    assert refused(from_raw, b"\x00\x02", DataType.BOOL, (2,), "x").code == "invalid_value"


def test_raw_bytes_are_little_endian_and_not_copied() -> None:
    data = bytearray(b"\x01\x00\x02\x00")
    array = from_raw(data, DataType.UINT16, (2,), "x")
    assert array.tolist() == [1, 2]
    data[0] = 7
    assert array.tolist() == [7, 2]


# One item's tensors


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2.5]],
        [[[1, 2.5]]],
        {"shape": [1, 2], "datatype": "FP32", "data": [1, 2.5]},
        {"shape": [1, 1, 2], "datatype": "FP32", "data": [1, 2.5]},
        {"shape": [1, 2], "datatype": "FP32", "data": [[1, 2.5]]},
    ],
)
def test_an_item_is_one_row_whether_or_not_it_says_so(value: object) -> None:
    arrays = read_row({"pixels": value}, [IMAGE], "inputs")
    assert arrays["pixels"].tolist() == [[[1, 2.5]]]


def test_a_size_that_may_be_any_is_the_item_s() -> None:
    for ids in ([1], [1, 2, 3]):
        assert read_row({"ids": ids}, [DYNAMIC], "inputs")["ids"].tolist() == [ids]


@pytest.mark.parametrize(
    ("tensors", "param", "said"),
    [
        ({}, "inputs", "'pixels' is missing"),
        ({"pixel": [[1, 2]]}, "inputs", "no input 'pixel'; it has pixels"),
        ({"pixels": [[1, 2]], "more": [1]}, "inputs", "no input 'more'"),
        ({"pixels": [1, 2]}, "inputs.pixels", "[2]; the model takes [1, 2]"),
        ({"pixels": [[1, 2, 3]]}, "inputs.pixels", "[1, 3]"),
        ({"pixels": [[[1, 2]], [[3, 4]]]}, "inputs.pixels", "[2, 1, 2]"),
        ({"pixels": 1}, "inputs.pixels", "[]"),
        ({"pixels": {"data": [1, 2]}}, "inputs.pixels", "`shape`, `datatype` and `data`"),
        (
            {"pixels": {"shape": [1, 2], "datatype": "INT32", "data": [1, 2]}},
            "inputs.pixels",
            "takes FP32",
        ),
        (
            {"pixels": {"shape": [1, 2], "datatype": ["FP32"], "data": [1, 2]}},
            "inputs.pixels",
            "takes FP32",
        ),
        (
            {"pixels": {"shape": [1, 2], "datatype": "FP32", "data": [1, 2, 3]}},
            "inputs.pixels",
            "3 values",
        ),
        (
            {"pixels": {"shape": [1, 2], "datatype": "FP32", "data": [[1], [2]]}},
            "inputs.pixels",
            "[2, 1]",
        ),
        (
            {"pixels": {"shape": [1, 2], "datatype": "FP32", "data": "AAAA"}},
            "inputs.pixels",
            "list",
        ),
        ({"pixels": {"shape": [1, 2], "datatype": "FP32", "data": None}}, "inputs.pixels", "list"),
        *(
            (
                {"pixels": {"shape": shape, "datatype": "FP32", "data": [1]}},
                "inputs.pixels",
                "shape",
            )
            for shape in (2, "12", None, [0], [-1], [True], [1.0], ["1"], [1] * 100, [10**9, 10**9])
        ),
    ],
)
def test_an_item_that_is_none_of_the_model_s_is_refused(
    tensors: dict[str, object], param: str, said: str
) -> None:
    refusal = refused(read_row, tensors, [IMAGE], "inputs")
    assert (refusal.code, refusal.param) == ("invalid_tensor", param)
    assert said in refusal.message


# Infer requests


def infer(shape: object, data: object, name: str = "pixels", datatype: str = "FP32") -> InferTensor:
    return InferTensor(name, datatype, shape, data, f"inputs.{name}")


@pytest.mark.parametrize(
    "data",
    [
        [1, 2, 3, 4],
        [[[1, 2]], [[3, 4]]],
        np.array([1, 2, 3, 4], "<f4").tobytes(),
        memoryview(np.array([1, 2, 3, 4], "<f4").tobytes()),
        (1.0, 2.0, 3.0, 4.0),  # a sequence that is no list, as gRPC's are
    ],
)
def test_infer_tensors_are_flat_nested_or_raw(data: object) -> None:
    arrays = read_tensors([infer([2, 1, 2], data)], [IMAGE], 4)
    assert arrays["pixels"].tolist() == [[[1, 2]], [[3, 4]]]
    assert arrays["pixels"].dtype == np.float32


def test_several_inputs_have_equally_many_rows() -> None:
    specs = [IMAGE, DYNAMIC]
    pixels = infer([2, 1, 2], [1, 2, 3, 4])
    got = read_tensors([infer([2, 3], list(range(6)), "ids", "INT64"), pixels], specs, 4)
    assert got["ids"].shape == (2, 3)
    ids = infer([1, 3], [1, 2, 3], "ids", "INT64")
    assert "equally many rows" in refused(read_tensors, [ids, pixels], specs, 4).message


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([], "'pixels' is missing"),
        ([infer([1, 1, 2], [1, 2])] * 2, "two inputs"),
        ([infer([1, 1, 2], [1, 2], "other")], "no input 'other'"),
        ([infer([1, 1, 2], [1, 2], datatype="BYTES")], "takes FP32"),
        ([infer([5, 1, 2], [1, 2] * 5)], "1 to 4 rows"),
        ([infer([1, 2], [1, 2])], "[2]; the model takes [1, 2]"),
        ([infer([], [1])], "[]; the model"),
        ([infer([0, 1, 2], [])], "positive"),
        ([infer([2, 1, 2], [[[1, 2]]])], "it says [2, 1, 2]"),
        ([infer([1, 1, 2], [])], "0 values"),
        ([infer([1, 1, 2], b"1234")], "4 bytes"),
    ],
)
def test_an_infer_request_that_does_not_fit_is_refused(
    tensors: list[InferTensor], said: str
) -> None:
    refusal = refused(read_tensors, tensors, [IMAGE], 4)
    assert refusal.code == "invalid_tensor"
    assert said in refusal.message


def test_a_shape_over_the_cap_is_refused_before_anything_is_made() -> None:
    size = values.MAX_ELEMENTS + 1
    spec = TensorSpec("x", DataType.UINT8, (None,))
    refusal = refused(
        read_row, {"x": {"shape": [size], "datatype": "UINT8", "data": []}}, [spec], "i"
    )
    assert "elements" in refusal.message


def test_a_list_over_the_cap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MAX_ELEMENTS", 3)
    assert from_json([1, 2, 3], DataType.FP32, 1, "x").size == 3
    assert "4 elements" in refused(from_json, [1, 2, 3, 4], DataType.FP32, 1, "x").message


@pytest.mark.parametrize("dtype", [dtype for dtype in DataType if dtype is not DataType.FP32])
def test_only_the_input_s_own_type_is_taken(dtype: DataType) -> None:
    refused(read_tensors, [infer([1, 1, 2], [1, 2], datatype=dtype)], [IMAGE], 4)
