"""Inductor settings: all of them inside the block, none of them after it, whatever happened."""

import subprocess
import sys
import threading

import pytest
import torch
import torch._inductor.config as inductor

from workbench.inductor import inductor_settings


def everything():
    """Every setting of inductor and every float32 precision of the process."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:
        precision = "torch does not tell while a backend differs from it"
    return {
        **inductor.get_config_copy(),
        "precision": precision,
        "generic": torch.backends.fp32_precision,
        "cuda": torch.backends.cuda.matmul.fp32_precision,
        "mkldnn": torch.backends.mkldnn.matmul.fp32_precision,
        "cudnn": torch.backends.cudnn.conv.fp32_precision,
    }


def recommended():
    return {
        "coordinate_descent_tuning": inductor.coordinate_descent_tuning,
        "coordinate_descent_check_all_directions": inductor.coordinate_descent_check_all_directions,
        "force_fuse_int_mm_with_mul": inductor.force_fuse_int_mm_with_mul,
        "fx_graph_cache": inductor.fx_graph_cache,
        "triton.unique_kernel_names": inductor.triton.unique_kernel_names,
        "precision": torch.get_float32_matmul_precision(),
    }


ALL_ON = {**dict.fromkeys(list(recommended()), True), "precision": "high"}


PRECISIONS = [(None, "none", "none", "none"), (None, "none", "tf32", "bf16"), (None, "tf32", "none", "none")]
PRECISIONS += [(name, "none", None, None) for name in ("highest", "high", "medium")]


@pytest.fixture(params=PRECISIONS, ids=str)
def _precision(request):
    """Float32 precisions as a user can have set them: by the one old call, or for all or single backends."""
    old, generic, cuda, mkldnn = request.param
    torch.backends.fp32_precision = generic
    if old is not None:
        torch.set_float32_matmul_precision(old)
    else:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = cuda, mkldnn
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision = "none"
    torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.mark.usefixtures("_precision")
@pytest.mark.parametrize("value", [False, True])
def test_settings_of_the_user_come_back(value):
    with inductor.patch({name: value for name in ALL_ON if name != "precision"}):
        before = everything()
        with inductor_settings():
            assert recommended() == ALL_ON
        assert everything() == before


def test_a_backend_that_followed_the_setting_of_all_still_follows_it():
    with inductor_settings():
        pass
    torch.backends.fp32_precision = "tf32"
    followed = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.fp32_precision = "none"
    assert followed == ("tf32", "tf32")


def test_all_settings_hold_inside_and_none_after():
    before = everything()
    with inductor_settings():
        assert recommended() == ALL_ON
    assert everything() == before


def test_an_error_inside_restores_them():
    before = everything()
    with pytest.raises(KeyError), inductor_settings():
        raise KeyError
    assert everything() == before


def test_nested_blocks_restore_level_by_level():
    before = everything()
    with inductor_settings():
        with inductor_settings():
            assert recommended() == ALL_ON
        assert recommended() == ALL_ON
        with inductor_settings(False):
            assert recommended() == ALL_ON
    assert everything() == before


def test_disabled_changes_nothing():
    before = everything()
    with inductor_settings(False):
        assert everything() == before
    assert everything() == before


def test_a_worker_thread_restores_them_too():
    before = everything()

    def work():
        with inductor_settings():
            assert recommended() == ALL_ON

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert everything() == before


def test_importing_the_workbench_does_not_import_the_compiler():
    code = "import workbench, workbench.inductor, sys; sys.exit('torch._inductor.config' in sys.modules)"
    plain = "import torch, sys; sys.exit('torch._inductor.config' in sys.modules)"
    for statement in (plain, code):
        assert subprocess.run([sys.executable, "-c", statement], check=False).returncode == 0
