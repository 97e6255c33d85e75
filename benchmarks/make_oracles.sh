#!/bin/sh
# Build environments of published metric implementations and write what they say of our test vectors.
#   benchmarks/make_oracles.sh FOLDER [SHARED_DATA]
# FOLDER gets one virtual environment per oracle (their pins exclude each other and ours); the numbers go
# to tests/measure/oracle_numbers.json, which the tests read. Needed only when vectors change.
set -eu
folder=$1
data=${2:-}
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$folder"

environment() {  # NAME [pip arguments...]
    name=$1
    shift
    [ -x "$folder/$name/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$folder/$name"
    "$folder/$name/bin/pip" install -q "$@"
}

environment stardist --no-deps stardist==0.9.2  # its matching module alone; no TensorFlow
environment stardist numpy scipy numba scikit-image tqdm
environment panoptica panoptica==2.1.7 nibabel
environment surface "numpy<1.24" "scipy<1.10" connected-components-3d absl-py
environment surface --no-deps surface-distance-based-measures==0.1

for oracle in stardist panoptica surface; do
    "$folder/$oracle/bin/python" "$here/benchmarks/metric_oracles.py" "$oracle" $data
done
