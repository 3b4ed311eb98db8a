#!/usr/bin/env bash
# What the project does on a GPU: correctness against the CPU, speed, memory. Needs a clone, Python, torch and timm.
#
#     bash benchmarks/gpu.sh                          # at most 8 minutes; writes gpu.json and gpu.md to ./gpu_figures
#     bash benchmarks/gpu.sh --device cpu --quick     # a rehearsal without a GPU, tiny sizes, 2 minutes of processor time
#     PYTHON=/path/to/python bash benchmarks/gpu.sh
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x "$root/.venv/bin/python" ] && PYTHON="$root/.venv/bin/python"
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "$PYTHON is missing or older than 3.10; name another: PYTHON=python3.12 bash benchmarks/gpu.sh" >&2
    exit 1
fi
missing=$("$PYTHON" - <<'END'
from importlib.util import find_spec

renamed = {"PIL": "pillow", "yaml": "pyyaml"}
modules = ("torch", "timm", "numpy", "PIL", "yaml", "safetensors")
print(" ".join(renamed.get(module, module) for module in modules if find_spec(module) is None))
END
)
if [ -n "$missing" ]; then
    echo "$PYTHON lacks: $missing" >&2
    echo "with a network:  $PYTHON -m pip install $missing" >&2
    echo "without one, on a machine that has it and the same Python:  pip download -d wheels $missing" >&2
    echo "  then bring the folder:  $PYTHON -m pip install --no-index --find-links wheels $missing" >&2
    exit 1
fi
PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" "$root/benchmarks/gpu.py" "$@"
