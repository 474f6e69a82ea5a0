#!/usr/bin/env bash
# What only a GPU can show, on a machine that has one: the CUDA tests, then all GPU benchmarks, in under 8 minutes.
#
#   scripts/gpu_check.sh                      with python3
#   PYTHON=.venv/bin/python scripts/gpu_check.sh
#
# It needs torch 2.11 or newer for CUDA, numpy, safetensors and pytest, and no network. A step that fails or runs out
# of time does not keep the next from running. The reports of the tests and all results are in benchmarks/results, and
# in the folder $OUT where that is set. It ends with 0 when all passed, 1 when a step failed, 3 without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-python3}"
RESULTS=benchmarks/results
LIMIT_S=455 # 8 minutes less what ending a step may take
FAILED=0
SUMMARY=()

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
# Nothing that this user measured or compiled before has a part in it.
export WORKBENCH_CACHE="$scratch/workbench" TRITON_CACHE_DIR="$scratch/triton" TORCHINDUCTOR_CACHE_DIR="$scratch/inductor"
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
unset TRITON_INTERPRET

# Run a step: its name, its most seconds, its command.
step() {
    local name="$1" seconds="$2" began=$SECONDS code
    shift 2
    local left=$((LIMIT_S - SECONDS))
    if ((left < 10)); then
        SUMMARY+=("FAILED  $name: no time was left for it")
        FAILED=1
        return
    fi
    printf '\n=== %s\n' "$name"
    timeout --signal=INT --kill-after=15 "$((seconds < left ? seconds : left))" "$@" 2>&1 | tee "$scratch/output"
    code=${PIPESTATUS[0]}
    local took="$((SECONDS - began)) s" missed
    missed=$(grep -c '^MISSED' "$scratch/output")
    case $code in
        0) SUMMARY+=("passed  $name, $took$( ((missed)) && echo ", $missed goals missed")") ;;
        124 | 137) SUMMARY+=("FAILED  $name: not done within its time, $took") ;;
        *) SUMMARY+=("FAILED  $name: exit code $code, $took") ;;
    esac
    ((code == 0)) || FAILED=1
}

probe='
import sys
try:
    import torch
except ImportError as error:
    sys.exit(f"no torch: {error}")
if not torch.cuda.is_available():
    sys.exit(f"no GPU: torch {torch.__version__} sees none")
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
'
if ! "$PYTHON" -c "$probe"; then
    echo "gpu_check: nothing was run" >&2
    exit 3
fi

mkdir -p "$RESULTS"
touch "$scratch/began"

notes='
from workbench.choice import available_paths, device_note
print(device_note("cuda"))
print("paths:", ", ".join(available_paths("cuda")))
'
step "kernels" 60 "$PYTHON" -c "$notes"
# Most of the tests' time goes into compiling kernels, which processes do beside one another where pytest-xdist is there.
parallel=()
if "$PYTHON" -c "import xdist" 2>/dev/null; then
    parallel=(-n "$(($(nproc) < 12 ? $(nproc) : 12))")
fi
# No configuration of the project is read: it names plugins that a bare machine does not have.
step "tests" 230 "$PYTHON" -m pytest -c /dev/null --rootdir=. --import-mode=importlib -p no:cacheprovider \
    -o "markers=cuda: needs a GPU" --continue-on-collection-errors --junitxml="$RESULTS/gpu_check-junit.xml" \
    -q -ra -m cuda ${parallel[@]+"${parallel[@]}"} tests/cuda tests/test_linear.py tests/test_packed_module.py
step "benchmark cuda_paths" 150 "$PYTHON" -m benchmarks.cuda_paths --json
step "benchmark triton_blocks" 120 "$PYTHON" -m benchmarks.triton_blocks --json

printf '\n=== gpu_check, %s s\n' "$SECONDS"
printf '%s\n' "${SUMMARY[@]}" | tee "$RESULTS/gpu_check.txt"
if [[ -n "${OUT:-}" ]]; then
    mkdir -p "$OUT"
    find "$RESULTS" -maxdepth 1 -type f -newer "$scratch/began" -exec cp {} "$OUT" \;
fi
exit "$FAILED"
