"""Layouts: golden vectors, the op itself in each CPU build, slow loops from the formulas, and round trips."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from workbench.errors import KernelError
from workbench.layout import CPU_VARIANTS, Layout
from workbench.packing import pack, pack_nibbles, unpack

GOLDEN = load_file(Path(__file__).parent / "data" / "tinygemm_layouts.safetensors")
GPU_LAYOUTS = [Layout(kind, tiles) for kind in ("cuda", "rocm") for tiles in (2, 4, 8)]
CPU_LAYOUTS = [Layout("cpu", variant=variant) for variant in CPU_VARIANTS]


def random_codes(n, k, seed=0):
    return torch.randint(0, 16, (n, k), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def layout_of(key):
    kind, _, detail = key.split(".")
    return Layout("cpu", variant=detail) if kind == "cpu" else Layout(kind, int(detail.removeprefix("inner_k_tiles")))


@pytest.mark.parametrize("key", sorted(key for key in GOLDEN if not key.startswith("codes")))
def test_golden_vectors(key):
    codes = GOLDEN[f"codes.{key.split('.')[1]}"].to(torch.uint8)
    layout, golden = layout_of(key), GOLDEN[key].contiguous()
    packed = pack(codes, layout)
    assert packed.dtype == layout.packed_dtype
    assert tuple(packed.shape) == layout.packed_shape(*codes.shape)
    assert torch.equal(packed.view(-1).view(torch.uint8), golden.view(-1).view(torch.uint8))
    assert torch.equal(unpack(packed, layout, *codes.shape), codes)


def slow_gpu(codes, layout):
    """Fill each nibble from its formula, one at a time."""
    n, k = codes.shape
    tiles = layout.inner_k_tiles
    rows, lanes = (8, 32) if layout.kind == "cuda" else (16, 64)
    words = []
    for n_tile in range(n // rows):
        for k_tile in range(k // (16 * tiles)):
            for lane in range(lanes):
                for word in range(tiles // 2):
                    value = 0
                    for a in range(2):
                        for b in range(2):
                            for p in range(2):
                                base = 16 * tiles * k_tile + 32 * word
                                if layout.kind == "cuda":
                                    r = 2 * a + b
                                    at_n, at_k, nibble = lane // 4, base + 8 * r + 2 * (lane % 4) + p, 4 * p + r
                                else:
                                    at_n, at_k = lane % 16, base + 16 * a + 4 * (lane // 16) + 2 * b + p
                                    nibble = 4 * p + 2 * a + b
                                value |= int(codes[rows * n_tile + at_n, at_k]) << (4 * nibble)
                    words.append(value - 2**32 if value >= 2**31 else value)
    return torch.tensor(words, dtype=torch.int32)


@pytest.mark.parametrize("layout", GPU_LAYOUTS, ids=str)
def test_gpu_layouts_against_loops(layout):
    codes = random_codes(16 * 3, 128 * 2)
    packed = pack(codes, layout)
    assert packed.shape == (6, 256 // (16 * layout.inner_k_tiles), 32, layout.inner_k_tiles // 2)
    assert torch.equal(packed.view(-1), slow_gpu(codes, layout))


def slow_cpu(codes, layout):
    """Fill each byte of each block from the table, one at a time."""
    n, k = codes.shape
    size = {"avx512": 64, "avx2": 32, "default": 32, "neon": 16}[layout.variant]
    flat = torch.zeros(n * k // 2, dtype=torch.uint8)
    for start in range(0, n, size):
        block = min(size, n - start)
        halves = layout.variant in ("avx512", "avx2") and block == size
        for at_k in range(k):
            for j in range(block // 2):
                low, high = (j, j + block // 2) if halves else (2 * j, 2 * j + 1)
                byte = int(codes[start + low, at_k]) | int(codes[start + high, at_k]) << 4
                flat[start * k // 2 + at_k * block // 2 + j] = byte
    return flat.view(n, k // 2)


@pytest.mark.parametrize("layout", CPU_LAYOUTS, ids=str)
@pytest.mark.parametrize("n", [16, 32, 48, 64, 80, 96, 112, 128, 144])
def test_cpu_layouts_against_loops(layout, n):
    codes = random_codes(n, 34, seed=n)
    assert torch.equal(pack(codes, layout), slow_cpu(codes, layout))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GPU_LAYOUTS + CPU_LAYOUTS), st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6))
def test_unpack_is_the_inverse(layout, rows, columns, seed):
    codes = random_codes(rows * layout.n_multiple, columns * layout.k_multiple, seed)
    assert torch.equal(unpack(pack(codes, layout), layout, *codes.shape), codes)


@pytest.mark.parametrize("codes_at_a_time", [1, 64 * 34, 3 * 64 * 34, 1 << 30])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("layout", CPU_LAYOUTS, ids=str)
def test_threads_change_nothing(monkeypatch, layout, threads, codes_at_a_time):
    codes = random_codes(400, 34)
    expected = slow_cpu(codes, layout)
    monkeypatch.setattr("workbench.packing._THREAD_CODES", codes_at_a_time)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            packed = pack(codes, layout)
            assert torch.equal(packed, expected) and torch.equal(unpack(packed, layout, 400, 34), codes)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", CPU_LAYOUTS, ids=str)
def test_unpacking_compiles_whole(layout):
    codes = random_codes(208, 34)
    compiled = torch.compile(lambda packed: unpack(packed, layout, 208, 34), fullgraph=True, backend="eager")
    assert torch.equal(compiled(pack(codes, layout)), codes)


@pytest.mark.parametrize("layout", GPU_LAYOUTS + CPU_LAYOUTS, ids=str)
def test_codes_need_not_be_contiguous(layout):
    codes = random_codes(256, 128).t()
    assert torch.equal(pack(codes, layout), pack(codes.contiguous(), layout))


@pytest.mark.parametrize("layout", [Layout("cuda", 8), Layout("rocm", 2), Layout("cpu", variant="avx512")], ids=str)
def test_what_does_not_fit_is_refused(layout):
    n, k = layout.n_multiple, layout.k_multiple
    for shape in [(n + 1, k), (n, k + 1), (0, k), (n, 0)]:
        with pytest.raises(KernelError, match="do not fill whole tiles"):
            pack(torch.zeros(shape, dtype=torch.uint8), layout)
    with pytest.raises(KernelError, match="uint8"):
        pack(torch.zeros(n, k, dtype=torch.int32), layout)
    with pytest.raises(KernelError, match="uint8"):
        pack(torch.zeros(n, k, 1, dtype=torch.uint8), layout)
    codes = torch.zeros(n, k, dtype=torch.uint8)
    codes[3, 1] = 16
    with pytest.raises(KernelError, match=r"\[3, 1\] is 16"):
        pack(codes, layout)
    packed = pack(torch.zeros(n, k, dtype=torch.uint8), layout)
    with pytest.raises(KernelError, match="packed weight is"):
        unpack(packed, layout, 2 * n, k)
    with pytest.raises(KernelError, match="packed weight is"):
        unpack(packed.float(), layout, n, k)


@pytest.mark.parametrize("codes_at_a_time", [1, 1 << 19])
@pytest.mark.parametrize("layout", GPU_LAYOUTS + CPU_LAYOUTS, ids=str)
def test_a_code_beyond_four_bits_is_named_wherever_it_stands(monkeypatch, layout, codes_at_a_time):
    monkeypatch.setattr("workbench.packing._THREAD_CODES", codes_at_a_time)
    for row, column in [(0, 0), (199, 255), (207, 17)]:
        codes = random_codes(208, 256)
        codes[row, column] = 255
        with pytest.raises(KernelError, match=rf"\[{row}, {column}\] is 255"):
            pack(codes, layout)


@pytest.mark.parametrize("variant", CPU_VARIANTS)
@pytest.mark.parametrize("n", [16, 32, 48, 64, 80, 112, 128, 208])
@pytest.mark.parametrize("k", [2, 32, 90])
def test_codes_two_to_a_byte_are_packed_into_the_same_bytes(variant, n, k):
    layout = Layout("cpu", variant=variant)
    nibbles = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(n + k))
    codes = torch.tensor([[(byte >> 4 * odd) & 15 for byte in row for odd in (0, 1)] for row in nibbles.tolist()])
    try:
        expected = pack(codes.to(torch.uint8), layout)
    except KernelError:
        with pytest.raises(KernelError):
            pack_nibbles(nibbles, layout)
        return
    assert torch.equal(pack_nibbles(nibbles, layout), expected)
    assert torch.equal(pack_nibbles(nibbles.t().contiguous().t(), layout), expected)  # whatever its strides


def test_only_cpu_layouts_are_made_from_two_codes_to_a_byte():
    with pytest.raises(KernelError, match="CPU layout"):
        pack_nibbles(torch.zeros(8, 64, dtype=torch.uint8), Layout("cuda", 8))
    with pytest.raises(KernelError, match="uint8"):
        pack_nibbles(torch.zeros(64, 64, dtype=torch.int32), Layout("cpu", variant="avx2"))
