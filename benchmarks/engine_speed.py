"""medseg's sliding window beside MONAI's and nnU-Net's, same network, each side in its own process.

Cases of random weights: `unet`, MONAI's UNet of 25 classes; `light`, a light body with a 1x1x1 head to
105 classes; `plain` and `resenc`, nnU-Net's PlainConvUNet and ResEnc-M of 25 classes. 256 x 256 x 192
voxels, windows of 96^3, overlap 0.5, Gaussian weights. The sides take turns (A, B, C, A, B, C); the least
processor time and wall time of each count, and the highest memory of each process. Labels are compared
with medseg's; nnU-Net places its windows otherwise and sums in half precision.

Run: `python benchmarks/engine_speed.py` (`--case light`, `--shape 128 128 96 --window 64` for a quick
look, `--repeats 3` for firm times, `--backend torch` to leave the backend out of it, `--nnunet ENV` for
nnU-Net's predictor in the environment of `make_nnunet.sh`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

CASES = {"unet": 25, "light": 105, "plain": 25, "resenc": 25}


def run(job: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """One side, in a process of its own."""
    command = [python, str(Path(__file__).with_name("engine_child.py")), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    return found


def compare(case: str, choice: argparse.Namespace, folder: Path) -> None:
    """The sides of a case in turn, and the table."""
    best: dict[str, dict[str, Any]] = {}
    common = {
        "network": case,
        "classes": CASES[case],
        "shape": choice.shape,
        "window": choice.window,
        "threads": choice.threads,
        "settings": {"backend": choice.backend} if choice.backend else {},
        "script": str(folder / "network.pt"),
    }
    pythons = {"medseg": sys.executable, "monai": sys.executable}
    if choice.nnunet:
        run(common | {"side": "script"})
        pythons["nnunet"] = str(choice.nnunet / "bin" / "python")
    backend = ""
    for _ in range(choice.repeats):
        for side, python in pythons.items():
            found = run(common | {"side": side, "labels": str(folder / f"{side}.npy")}, python)
            backend = found.get("backend", backend)
            before = best.setdefault(side, found)
            best[side] = {
                key: max(before[key], value) if key == "peak" else min(before[key], value)
                for key, value in found.items()
                if isinstance(value, (int, float))
            }
    ours = best["medseg"]
    size = " x ".join(map(str, choice.shape))
    windows = f"{ours['windows']:.0f} windows of {choice.window}^3"
    print(f"\n{case}, {CASES[case]} classes, {size}, {windows}; {backend}")
    print(f"{'':8}{'wall s':>9}{'cpu s':>9}{'peak GB':>9}{'peak - base':>13}")
    for side, row in best.items():
        above = (row["peak"] - row["base"]) / 1e9
        print(f"{side:8}{row['wall']:9.1f}{row['cpu']:9.1f}{row['peak'] / 1e9:9.2f}{above:13.2f}")
    for side in list(best)[1:]:
        theirs = best[side]
        equal = (np.load(folder / "medseg.npy") == np.load(folder / f"{side}.npy")).mean()
        above = (theirs["peak"] - theirs["base"]) / (ours["peak"] - ours["base"])
        print(
            f"{'x ' + side:8}{theirs['wall'] / ours['wall']:9.2f}{theirs['cpu'] / ours['cpu']:9.2f}"
            f"{theirs['peak'] / ours['peak']:9.2f}{above:13.2f}   equal labels {equal:.7f}",
            flush=True,
        )


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", choices=sorted(CASES), action="append")
    parser.add_argument("--shape", type=int, nargs=3, default=[256, 256, 192])
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--nnunet", type=Path, help="environment of make_nnunet.sh")
    parser.add_argument("--backend", default="", help="medseg's; its own choice if not given")
    choice = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for case in choice.case or sorted(CASES):
            compare(case, choice, Path(folder))


if __name__ == "__main__":
    main()
