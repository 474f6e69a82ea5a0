"""Whatever test imports Triton first, its interpreter runs the kernels: Triton reads this when it is imported."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"
