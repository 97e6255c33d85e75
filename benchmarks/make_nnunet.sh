#!/usr/bin/env bash
# nnU-Net v2 as an oracle, in an environment of its own: benchmarks/make_nnunet.sh DIR
# Its packages are installed without their dependencies, which would drag in torchvision and timm; what
# its predictor and its trainer import follows by name.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"${PYTHON:-python3.11}" -m venv "$1"
"$1/bin/pip" install --quiet -c "$here/../constraints.txt" torch numpy scipy scikit-image nibabel SimpleITK
"$1/bin/pip" install --quiet tqdm pandas blosc2 threadpoolctl connected-components-3d matplotlib seaborn scikit-learn
"$1/bin/pip" install --quiet --no-deps nnunetv2==2.8.1 dynamic-network-architectures==0.4.4 \
    batchgenerators==0.25.5 batchgeneratorsv2==0.3.6 acvl-utils==0.2.6
"$1/bin/python" -W ignore -c "import nnunetv2.inference.predict_from_raw_data; print('nnU-Net works in', '$1')"
