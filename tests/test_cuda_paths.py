"""How tiles become dense where there is no Triton; tests/cuda and tests/peers run the kernels themselves."""

import sys
from types import SimpleNamespace

import pytest
import torch

from tests.test_tiles import packed_weight
from workbench import cuda_paths
from workbench.cuda_paths import dequantize_tiles, has_fused_path, tiles_note
from workbench.errors import KernelError
from workbench.layout import Layout
from workbench.triton import kernels as triton_kernels
from workbench.triton import launch as triton_launch
from workbench.triton.kernels import triton_available, triton_note


@pytest.mark.parametrize("layout", [Layout("cuda", 8), Layout("rocm", 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_without_triton_plain_operations_do_it(layout, dtype):
    weight, packed, pairs = packed_weight(64, 256, 64, layout)
    out = torch.full((32, 256), float("nan"), dtype=dtype)
    assert dequantize_tiles(packed, pairs, 64, layout, 16, out) is out
    assert torch.equal(out, weight.dequantize(dtype)[16:48])


@pytest.mark.parametrize(
    ("start", "out", "message"),
    [
        (16, torch.empty(4, 256), "rows=4"),
        (12, torch.empty(16, 256), "start=12"),
        (16, torch.empty(16, 128), "out is"),
        (16, torch.empty(256, 16).t(), "not contiguous"),
        (16, torch.empty(16, 256, dtype=torch.int32), "out is torch.int32"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(start, out, message):
    layout = Layout("cuda", 8)
    _, packed, pairs = packed_weight(64, 256, 64, layout)
    with pytest.raises(KernelError, match=message):
        dequantize_tiles(packed, pairs, 64, layout, start, out)
    with pytest.raises(KernelError, match="packed is"):
        dequantize_tiles(packed.float(), pairs, 64, layout, 16, torch.empty(16, 256))


@pytest.mark.parametrize(
    ("layout", "dtype", "used"),
    [
        (Layout("cuda", 4), torch.float16, True),
        (Layout("cuda", 4), torch.float64, False),
        (Layout("rocm", 4), torch.bfloat16, False),
    ],
    ids=str,
)
def test_triton_takes_what_it_can(layout, dtype, used, monkeypatch):
    _, packed, pairs = packed_weight(32, 256, 64, layout)
    calls = []
    monkeypatch.setattr(cuda_paths, "triton_available", lambda device: True)
    monkeypatch.setattr(cuda_paths, "dequantize_rows", lambda *arguments: calls.append(arguments) or arguments[-1])
    dequantize_tiles(packed, pairs, 64, layout, 16, torch.empty(16, 256, dtype=dtype))
    assert len(calls) == used
    if used:
        assert calls[0][2:6] == (64, 4, 16, 16) and calls[0][6].shape == (16, 256)


def test_the_cpu_has_no_triton_and_says_so():
    assert not triton_available("cpu") and triton_note("cpu") == "no Triton: it does not run on cpu"
    assert not has_fused_path("cpu", Layout("cuda", 8)) and not has_fused_path("cuda", None)
    assert tiles_note("cpu") == "dequantized by torch operations (no Triton: it does not run on cpu)"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_a_machine_without_a_gpu_says_so():
    assert not triton_available("cuda")
    assert triton_note() == "no Triton: there is no GPU"


def pretend_gpu(monkeypatch, capability=(9, 0), hip=None):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


def test_old_gpus_and_rocm_are_told_apart(monkeypatch):
    pretend_gpu(monkeypatch, capability=(7, 5))
    assert triton_note("cuda:0") == "no Triton: the GPU is older than compute capability 8.0"
    pretend_gpu(monkeypatch, hip="6.2")
    assert "ROCm's layout is dequantized by torch operations" in triton_note("cuda:0")


def test_kernels_that_do_not_run_or_are_wrong_are_not_used(monkeypatch):
    pretend_gpu(monkeypatch)
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    assert triton_note("cuda:0") == "no Triton: it is not installed (torch for CUDA on Linux brings it)"
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="9.9"))
    for answer in ("its kernels gave wrong values here", ""):
        monkeypatch.setattr(triton_kernels, "_trial", lambda index, answer=answer: answer)
        assert has_fused_path("cuda:0", Layout("cuda", 8)) == (answer == "")
    assert not has_fused_path("cuda:0", Layout("rocm", 8))
    assert tiles_note("cuda:0") == "dequantized by Triton 9.9"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(triton_kernels, "_trial", lambda index: pytest.fail("nothing is tried during a capture"))
    assert triton_available("cuda:0")
    monkeypatch.setitem(triton_kernels._found, 0, "its kernels gave wrong values here")
    assert not triton_available("cuda:0")  # what a trial found before holds in a capture too


def test_the_driver_s_version_is_asked_and_may_be_unknown(monkeypatch):
    def version(given, failed):
        def ask(place):
            place._obj.value = given
            return failed

        monkeypatch.setattr(triton_launch.ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=ask))
        return triton_launch._driver_version()

    assert (version(13000, 0), version(12020, 0), version(13000, 1)) == (13000, 12020, 0)
    monkeypatch.setattr(
        triton_launch.ctypes, "CDLL", lambda name: 1 / 0 if name != "libcuda.so.1" else SimpleNamespace()
    )
    assert triton_launch._driver_version() == 0


@pytest.mark.parametrize(
    ("capability", "driver", "early"),
    [((9, 0), 12030, True), ((12, 0), 13000, True), ((8, 9), 13000, False), ((9, 0), 12020, False), ((9, 0), 0, False)],
)
def test_kernels_are_set_up_early_where_gpu_and_driver_can(capability, driver, early, monkeypatch):
    pretend_gpu(monkeypatch, capability=capability)
    monkeypatch.setattr(triton_launch, "_driver_version", lambda: driver)
    assert triton_launch._early.__wrapped__(torch.device("cuda:0")) == early
    assert not triton_launch._early.__wrapped__(torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="fails as a machine without a GPU does")
def test_a_trial_that_fails_says_how():
    assert triton_kernels._trial.__wrapped__(0).startswith("its kernels do not run here (")
