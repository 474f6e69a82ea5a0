"""Layouts: the shapes that fill them, and those that no kernel reads."""

import pytest

from workbench.errors import KernelError
from workbench.layout import CPU_VARIANTS, Layout, padded_shape

GPU_LAYOUTS = [Layout(kind, tiles) for kind in ("cuda", "rocm") for tiles in (2, 4, 8)]
CPU_LAYOUTS = [Layout("cpu", variant=variant) for variant in CPU_VARIANTS]


@pytest.mark.parametrize("layout", GPU_LAYOUTS + CPU_LAYOUTS, ids=str)
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 128), (17, 129), (700, 300), (4096, 11008)])
def test_padded_shape_is_the_least_that_fits(layout, group_size, n, k):
    rows, columns = padded_shape(n, k, group_size, layout)
    assert rows % layout.n_multiple == 0 and 0 <= rows - n < layout.n_multiple
    assert columns % group_size == 0 and columns % layout.k_multiple == 0
    assert not any(c % group_size == 0 and c % layout.k_multiple == 0 for c in range(k, columns))


@pytest.mark.parametrize(
    "arguments",
    [("cuda",), ("cuda", 3), ("cpu",), ("cpu", 8, "avx512"), ("cpu", None, "sse"), ("xpu", 8), ("cuda", 8, "avx2")],
)
def test_layouts_that_no_kernel_reads_are_refused(arguments):
    with pytest.raises(KernelError, match="no layout of an int4 kernel"):
        Layout(*arguments)
