#!/usr/bin/env bash
# The brain-mask oracle (deepbet, MIT) in an environment of its own: benchmarks/make_deepbet.sh DIR
# Its user interface is not installed; its weights lie in its wheel.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python3 -m venv "$1"
"$1/bin/pip" install --quiet -c "$here/../constraints.txt" torch nibabel connected-components-3d
"$1/bin/pip" install --quiet pandas tqdm fill_voids
"$1/bin/pip" install --quiet --no-deps deepbet==1.0.2
"$1/bin/python" -c "import deepbet; print('deepbet works in', '$1')"
