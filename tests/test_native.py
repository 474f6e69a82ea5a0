"""The compiled kernels: built, found again, tried before they are used, and left alone where anything is wrong."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import workbench.native as native
import workbench.native.builder as building
from tests.oracles import random_weight
from workbench.layout import Layout
from workbench.native import native_kernels, native_note
from workbench.native.builder import CannotBuild, build
from workbench.packed import pack_weight

COMPILER = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fresh(monkeypatch):
    """As at the start of a process."""
    monkeypatch.setattr(native, "_found", [])
    monkeypatch.setattr(native, "_note", "")


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# --- building ---------------------------------------------------------------------------------------------------------


@needs_compiler
def test_it_is_built_once_and_found_again(cache, monkeypatch):
    first = build()
    assert first.path.parent == cache and first.path.exists()
    monkeypatch.setattr(building, "_compile", lambda *_: pytest.fail("compiled again"))
    assert build() == first
    assert [path.name for path in cache.iterdir()] == [first.path.name]


@needs_compiler
def test_another_processor_or_source_gets_a_library_of_its_own(cache, monkeypatch):
    first = build()
    monkeypatch.setattr(building, "processor_identity", lambda: "another processor")
    second = build()
    other = cache.parent / "int4.c"
    other.write_text(building.SOURCE.read_text() + "\n/* changed */\n")
    monkeypatch.setattr(building, "SOURCE", other)
    assert len({first.path, second.path, build().path}) == 3


@needs_compiler
@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_library_that_others_can_write_is_never_loaded(cache):
    path = build().path
    path.write_bytes(b"not a library")
    path.chmod(0o777)
    again = build()
    assert again.path == path and again.path.read_bytes()[:4] != b"not "


@needs_compiler
def test_a_cache_that_cannot_be_written_is_replaced_by_a_private_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file"))
    path = build().path
    assert path.exists() and not path.is_relative_to(tmp_path)
    shutil.rmtree(path.parent)


def test_without_a_compiler_it_says_so(cache, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(building.shutil, "which", lambda _: None)
    with pytest.raises(CannotBuild, match="no C compiler is installed"):
        build()


@pytest.mark.skipif(os.name != "posix", reason="shell scripts")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'if [ "$1" = --version ]; then echo fake 1.0; else echo "int4.c:1: error: no" >&2; exit 1; fi',
            "fake 1.0.*error: no",
        ),
        ("exit 3", "does not run"),
    ],
)
def test_a_compiler_that_fails_is_named(cache, tmp_path, monkeypatch, text, message):
    monkeypatch.setenv("CC", script(tmp_path / "cc", text))
    with pytest.raises(CannotBuild, match=message):
        build()
    assert not cache.exists() or not list(cache.iterdir())


def test_a_compilers_path_on_windows_keeps_its_backslashes(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("CC", r'"C:\Program Files\gcc.exe" -m64')
    assert building._compiler() == [r"C:\Program Files\gcc.exe", "-m64"]


# --- loading ----------------------------------------------------------------------------------------------------------


def test_it_can_be_turned_off(fresh, monkeypatch):
    monkeypatch.setenv("WORKBENCH_NATIVE", "0")
    assert native_kernels() is None
    assert "WORKBENCH_NATIVE=0 turns them off" in native_note()
    assert "plain torch operations, slower" in native_note()


@needs_compiler
def test_the_note_names_what_is_used(fresh, cache):
    kernels = native_kernels()
    assert kernels is not None
    assert native_note() == f"compiled CPU kernels ({kernels.kind}, by {kernels.compiler})"
    assert native_kernels() is kernels


@needs_compiler
def test_what_computes_otherwise_than_torch_is_not_used(fresh, cache, tmp_path, monkeypatch):
    wrong = tmp_path / "int4.c"
    text = building.SOURCE.read_text()
    assert text.count("(float)((int)code - 8) * scale + zero") == 1
    wrong.write_text(text.replace("(float)((int)code - 8) * scale + zero", "(float)((int)code - 7) * scale + zero"))
    monkeypatch.setattr(building, "SOURCE", wrong)
    assert native_kernels() is None
    assert "otherwise than torch" in native_note()


@needs_compiler
def test_a_damaged_library_is_said(fresh, cache, monkeypatch):
    path = build().path
    path.write_bytes(b"not a library")
    assert native_kernels() is None
    assert "no compiled CPU kernels" in native_note()


def test_it_works_without_a_compiler_in_a_process_of_its_own(tmp_path):
    code = (
        "import torch, workbench as wb\n"
        "from workbench.choice import available_paths\n"
        "from workbench.native import native_note\n"
        "layer = wb.Int4Linear(wb.quantize_weight(torch.randn(80, 128)))\n"
        "for rows in (1, 200): print(tuple(layer(torch.randn(rows, 128)).shape))\n"
        "print(available_paths('cpu'), native_note(), layer.notes())"
    )
    environment = {**os.environ, "PATH": "", "WORKBENCH_CACHE": str(tmp_path)}
    environment.pop("CC", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "(1, 80)\n(200, 80)\n('op', 'dequantize') no compiled CPU kernels: no C compiler" in done.stdout


# --- multiplying ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tiles", "vectors"])
def kernels(request):
    """With the matrix unit, where the processor has one, and with vector instructions alone."""
    found = native_kernels()
    if found is None or not found.fits(Layout("cpu", variant="avx512")):
        pytest.skip("no compiler, or no AVX-512 BF16")
    if request.param == "tiles" and not found.tiles:
        pytest.skip("no matrix unit")
    return native.NativeKernels(found.library, True, request.param == "tiles", found.compiler)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 16, 17, 33, 50])
@pytest.mark.parametrize("shape", [(64, 256), (17, 33), (80, 250), (200, 1100), (112, 96)])
def test_the_product_is_that_of_the_rounded_factors(rows, shape, kernels):
    """With few rows only x is rounded: the codes are exact, and scales are multiplied with the sums."""
    packed = pack_weight(random_weight(*shape, 64), "cpu")
    if not kernels.fits(packed.layout):
        pytest.skip("this build of torch has another layout")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = torch.randn(rows, shape[1], generator=torch.Generator().manual_seed(rows)).to(dtype)
        result = kernels.linear(x, packed.packed, packed.scales_and_zeros, 64, shape[0])
        weight = packed.quantized().dequantize(torch.float32 if rows <= kernels.few_rows else torch.bfloat16).double()
        exact, size = x.bfloat16().double() @ weight.t(), x.double().abs() @ weight.abs().t()
        rounding = torch.finfo(dtype).eps * exact.abs() + 2e-6 * size
        assert result.dtype == dtype
        assert bool(((result.double() - exact).abs() <= rounding).all())


@pytest.mark.parametrize("rows", [5, 20, 40])
@pytest.mark.parametrize("group_size", [32, 128, 256])
def test_other_group_sizes(group_size, rows, kernels):
    packed = pack_weight(random_weight(96, 1280, group_size), "cpu")
    x = torch.randn(rows, 1280)
    result = kernels.linear(x, packed.packed, packed.scales_and_zeros, group_size, 96)
    inside = torch.float32 if rows <= kernels.few_rows else torch.bfloat16
    exact = x.bfloat16().double() @ packed.quantized().dequantize(inside).double().t()
    assert torch.allclose(result.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


@pytest.mark.parametrize("rows", [17, 40])
def test_a_row_does_not_depend_on_the_others(rows, kernels):
    packed = pack_weight(random_weight(64, 256), "cpu")
    x = torch.randn(rows, 256).bfloat16()
    whole = kernels.linear(x, packed.packed, packed.scales_and_zeros, 64, 64)
    x[7, 3] = float("nan")
    dirty = kernels.linear(x, packed.packed, packed.scales_and_zeros, 64, 64)
    assert dirty[7].isnan().all()
    others = [row for row in range(rows) if row != 7]
    assert torch.equal(dirty[others], whole[others])
