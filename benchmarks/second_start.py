"""How long a fresh process takes until a network that was converted before can answer.

The first process converts and keeps it in a cache folder of its own; the next ones find it there. The
goal is 2 s beyond the imports, which are told apart, as is reading the model itself.

Run: `python benchmarks/second_start.py` (`--model brain-mri`, `--repeats 3`, `--threads 2`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time


def child(name: str, threads: int) -> None:
    """One start; prints its seconds and processor seconds."""
    times = {}
    began, spent = time.perf_counter(), time.process_time()

    def stage(what: str) -> None:
        nonlocal began, spent
        now, used = time.perf_counter(), time.process_time()
        times[what] = (now - began, used - spent)
        began, spent = now, used

    import torch

    import medseg
    from medseg.inference.backends.choose import OPENVINO, make_predictor
    from medseg.inference.backends.quiet import import_quietly
    from medseg.inference.settings import InferenceSettings

    import_quietly("openvino")
    if name == "brain-mri" or "monai" in name:
        import monai.networks.nets  # noqa: F401  # the network's class
    stage("imports")
    model = medseg.load_model(name, device="cpu")
    stage("model")
    with torch.inference_mode():
        settings = InferenceSettings(threads=threads)
        make_predictor(model.network, model, model.card.window.size, settings, OPENVINO)
    stage("network")
    print(json.dumps(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="brain-mri")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    choice = parser.parse_args()
    if choice.child:
        child(choice.model, choice.threads)
        return
    print("start     imports s (cpu)    model s (cpu)  network s (cpu)")
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MEDSEG_CACHE": folder}
        command = [sys.executable, __file__, "--child", "--model", choice.model]
        command += ["--threads", str(choice.threads)]
        for number in range(choice.repeats + 1):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            times = json.loads(done.stdout.splitlines()[-1])
            cells = "".join(f"  {wall:8.2f} ({cpu:5.2f})" for wall, cpu in times.values())
            print(f"{'first' if number == 0 else 'again':6}{cells}", flush=True)


if __name__ == "__main__":
    main()
