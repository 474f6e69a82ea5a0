"""The compiler settings that torchao recommends for int4 weights, in a scope that puts back what was there before.

torchao's setter changes them for the whole process and leaves them so; here they end with the `with` block:

    with inductor_settings(cfg.set_inductor_config):
        compiled = torch.compile(model)
        compiled(example)          # compiling happens at the first call of each new shape: make it inside the block
    compiled(x)                    # runs what was compiled, with the process's settings as they were

Source of the list: torchao 0.11, quantization/utils.py, `recommended_inductor_config_setter`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Settings of torch._inductor.config.
INDUCTOR_SETTINGS: dict[str, Any] = {
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
    "force_fuse_int_mm_with_mul": True,
    "fx_graph_cache": True,
    "triton.unique_kernel_names": True,
}
# Float32 matrix products, eager ones too, may round their factors (to tf32 or bfloat16 pairs).
MATMUL_PRECISION = "high"


@contextmanager
def inductor_settings(enabled: bool = True) -> Iterator[None]:
    """Apply the recommended settings inside a `with` block and restore every one of them after it.

    Restored on errors too, and at each level when blocks are nested. The settings belong to the process: other
    threads that compile meanwhile see them.

    Args:
        enabled: False changes nothing, so that `Int4WeightOnlyConfig.set_inductor_config` can be passed as it is.
    """
    if not enabled:
        yield
        return
    import torch._inductor.config as inductor  # slow to import, and only those who compile need it

    with inductor.patch(INDUCTOR_SETTINGS), _matmul_precision(MATMUL_PRECISION):
        yield


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    """Set torch's float32 matmul precision and what it changes beside itself: that of two backends."""
    mkldnn: Any = torch.backends.mkldnn
    backends = (torch.backends.cuda.matmul, mkldnn.matmul)
    own = [_own_precision(backend) for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"  # torch refuses to tell its precision while a backend's differs from it
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        for backend, value in zip(backends, own, strict=True):
            backend.fp32_precision = value


def _own_precision(backend: Any) -> str:
    """Return a backend's own float32 precision; "none" where it follows the setting of all backends."""
    value: str = backend.fp32_precision
    backend.fp32_precision = "none"
    followed = backend.fp32_precision
    backend.fp32_precision = value
    return "none" if followed == value else value
