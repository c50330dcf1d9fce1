"""What counts as running out of memory, which is answered with smaller steps."""

import pytest

from primegpt.errors import UsageError, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("could not create a primitive"), True),
        (
            RuntimeError("could not create a primitive descriptor for a matmul primitive"),
            False,
        ),  # an operation it lacks
        (ImportError("libgomp.so.1: cannot allocate memory in static TLS block"), False),
        (UsageError("out of memory", "of the user's own words"), False),
        (ValueError("shapes do not match"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
