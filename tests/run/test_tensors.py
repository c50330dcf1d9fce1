"""Our writer of the safetensors format against the library."""

import json
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primegpt.errors import CheckpointError
from primegpt.run import tensors
from primegpt.run.tensors import OnDisk, deserialize, serialize

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool]


def encode(named: dict[str, torch.Tensor]) -> bytes:
    return b"".join(bytes(chunk) for chunk in serialize(named))


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert left[name].shape == right[name].shape
        assert left[name].contiguous().view(-1).equal(right[name].contiguous().view(-1))


def test_the_library_writes_the_same_bytes() -> None:
    named = {"b.weight": torch.randn(3, 5), "a.weight": torch.randn(7)}
    assert encode(named) == safetensors.torch.save(named, metadata={"format": "pt"})


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    )
)
def test_the_library_reads_every_name_dtype_and_shape(spec: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    named = {name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in spec.items()}
    assert_same(safetensors.torch.load(encode(named)), named)
    assert_same(deserialize(encode(named)), named)


def test_equal_tensors_give_equal_bytes_in_any_order() -> None:
    named = {name: torch.full((3,), float(index)) for index, name in enumerate("fedcba")}
    assert encode(named) == encode(dict(sorted(named.items())))


def test_views_and_parameters_are_written_as_they_look() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    named = {"transposed": base.t(), "parameter": torch.nn.Parameter(torch.ones(2, 2)), "row": base[1:2]}
    assert_same(deserialize(encode(named)), {name: tensor.detach() for name, tensor in named.items()})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu() -> None:
    named = {"a": torch.randn(3, 4, device="cuda"), "b": torch.randn(5, device="cuda", dtype=torch.bfloat16)[::2]}
    assert_same(deserialize(encode(named)), {name: tensor.cpu() for name, tensor in named.items()})


def test_one_memory_under_two_names_is_our_mistake() -> None:
    weight = torch.ones(2, 2)
    with pytest.raises(AssertionError, match="share memory"):
        serialize({"wte.weight": weight, "lm_head.weight": weight})


def test_a_header_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="header of 16777217 bytes"):
        deserialize(struct.pack("<Q", tensors.MAX_HEADER_BYTES + 1) + b"{}")


def test_files_on_the_disk_are_read_a_tensor_at_a_time(tmp_path) -> None:
    parts = [{"a": torch.randn(3, 4), "b": torch.tensor(2)}, {"c": torch.randn(5).bfloat16()}]
    for number, part in enumerate(parts):
        (tmp_path / str(number)).write_bytes(encode(part))
    found = OnDisk(tmp_path / str(number) for number in range(2))
    assert_same(dict(found), parts[0] | parts[1])
    assert len(found) == 3
    assert found["a"].data_ptr() != found["a"].data_ptr()  # nothing is kept
    with pytest.raises(KeyError):
        found["d"]
    (tmp_path / "1").unlink()
    with pytest.raises(CheckpointError, match="tensor 'c' cannot be read"):
        found["c"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x80\x04\x95 pickled",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 60) + json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}).encode(),
    ],
)
def test_what_is_no_safetensors_file_is_a_value_error(tmp_path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        deserialize(data)
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match=r"^it "):
        OnDisk([tmp_path / "file"])
