#!/usr/bin/env bash
# StarDist (BSD-3), the peer of the model `nuclei`, in an environment of its own:
# benchmarks/make_stardist.sh DIR. Its published weights need the internet; it is trained from scratch.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python3 -m venv "$1"
"$1/bin/pip" install --quiet tensorflow-cpu==2.21.0 stardist==0.9.2
"$1/bin/python" -c "import stardist; print('StarDist', stardist.__version__, 'works in', '$1')"
