"""`medseg train` and nnU-Net v2 on the same small task with the same processor time: both curves.

    benchmarks/make_nnunet.sh ENV
    python benchmarks/train_against_nnunet.py --nnunet ENV [--minutes 10] [--spacing 6] [--folder FOLDER]

The task is that of `benchmarks/brain_task.py`: 16 synthesised brains with 8 classes to learn from, 4
others to be judged on, which neither sees. `medseg train` runs first, as its command does with no flags but
`--minutes` and one thread; what it spends in all (checks of the data, preparation, training, looks at its
own held-out cases, export) is the budget of nnU-Net, which splits it likewise, but for looks at held-out
cases, which it gets free (`nnunet_trainer.py`). The curve is the mean Dice over classes and the 4 brains
against minutes of processor time; the last row is the model as published (nnU-Net's with mirroring).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from brain_task import CLASSES, MAPS, mean_dice, read_test, write_task

import medseg

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
LOOKS = 4
"""Times that nnU-Net's weights are looked at."""

Curve = list[tuple[float, float]]
"""Minutes of processor time and mean Dice, in order."""

Test = Sequence[tuple[medseg.Volume, medseg.LabelVolume]]


def cpu_seconds(process_id: int) -> float:
    """Processor time of a running process and of its finished children (Linux)."""
    words = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return sum(int(words[n]) for n in (11, 12, 13, 14)) / TICKS


def train_medseg(folder: Path, minutes: float) -> tuple[Path, list[tuple[float, Path]], float]:
    """Run the command; the model, its checkpoints by the seconds spent, and all seconds spent."""
    output, looks = folder / "medseg_model", folder / "medseg_looks"
    for old in (output, looks, output.with_name(output.name + ".partial")):
        shutil.rmtree(old, ignore_errors=True)
    looks.mkdir(parents=True)
    words = [sys.executable, "-W", "ignore", "-m", "medseg.cli.main", "train", folder / "train", "-o", output]
    command = [*words, "--minutes", minutes, "--threads", 1, "--device", "cpu"]
    checkpoint = output.with_name(output.name + ".partial") / "fold_0" / "checkpoint.pt"
    kept: list[tuple[float, Path]] = []
    seen, spent = 0.0, 0.0
    with subprocess.Popen([str(word) for word in command], env=os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        while run.poll() is None:
            try:
                spent = cpu_seconds(run.pid)
                if checkpoint.exists() and checkpoint.stat().st_mtime != seen:
                    seen = checkpoint.stat().st_mtime
                    kept.append((spent, Path(shutil.copyfile(checkpoint, looks / f"{len(kept)}.pt"))))
            except (FileNotFoundError, IndexError):  # over, or replaced at this moment
                continue
            time.sleep(0.5)
    if run.returncode:
        raise SystemExit(f"medseg train ended with {run.returncode}")
    return output, kept, spent


def curve_of_medseg(
    model_folder: Path, kept: Sequence[tuple[float, Path]], spent: float, test: Test
) -> Curve:
    """Dice of every checkpoint, and of the published model at the end."""
    model = medseg.load_model(model_folder, device="cpu")
    published = {name: value.clone() for name, value in model.network.state_dict().items()}
    curve: Curve = []
    for seconds, file in kept[:-1]:
        average = torch.load(file, weights_only=True)["average"]
        model.network.load_state_dict({name: average[name] for name in published})
        curve.append((seconds / 60, judged(model, test)))
    model.network.load_state_dict(published)
    return [*curve, (spent / 60, judged(model, test))]


def judged(model: medseg.Model, test: Test) -> float:
    settings = medseg.InferenceSettings(device="cpu", threads=1, backend="torch")
    return float(np.mean([mean_dice(medseg.predict(image, model, settings), truth) for image, truth in test]))


def write_raw(folder: Path, work: Path) -> None:
    """The task in nnU-Net's layout."""
    raw = work / "raw" / "Dataset001_Brains"
    shutil.rmtree(work, ignore_errors=True)
    for part, images, labels in (("train", "imagesTr", "labelsTr"), ("test", "imagesTs", "")):
        for place in filter(None, (images, labels)):
            (raw / place).mkdir(parents=True)
        for file in sorted((folder / part / "images").iterdir()):
            shutil.copyfile(file, raw / images / file.name.replace(".nii", "_0000.nii"))
            if labels:
                shutil.copyfile(folder / part / "labels" / file.name, raw / labels / file.name)
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0} | {name: number for number, (name, _) in CLASSES.items()},
        "numTraining": len(list((raw / "imagesTr").iterdir())),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about))


def curve_of_nnunet(folder: Path, environment: Path, seconds: float, test: Test) -> tuple[Curve, str]:
    """Dice at every look, and what was planned in words."""
    work = folder / "nnunet"
    write_raw(folder, work)
    script = [
        environment / "bin" / "python",
        "-W",
        "ignore",
        HERE / "nnunet_trainer.py",
        work,
        seconds,
        LOOKS,
    ]
    subprocess.run([str(word) for word in script], check=True, stdout=subprocess.DEVNULL)
    told = json.loads((work / "looks.json").read_text())
    curve: Curve = []
    for number, spent in enumerate(told["seconds"]):
        scores = []
        for file, (_, truth) in zip(sorted((folder / "test" / "images").iterdir()), test, strict=True):
            found = medseg.read_labels(work / f"look_{number}" / file.name)
            scores.append(mean_dice(medseg.LabelVolume(found.array, truth.geometry, truth.labels), truth))
        curve.append((spent / 60, float(np.mean(scores))))
    words = f"{told['steps']} steps of {told['batch']} patches of {told['patch']}, "
    return curve, words + f"{told['parameters'] / 1e6:.1f} million parameters"


def time_to(curve: Curve, dice: float) -> float | None:
    """First minutes at which a curve has reached a Dice."""
    return next((minutes for minutes, score in curve if score >= dice), None)


def main() -> None:
    """Train both, print both curves and who is ahead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nnunet", type=Path, required=True, help="environment of make_nnunet.sh")
    parser.add_argument("--maps", type=Path, default=MAPS)
    parser.add_argument("--minutes", type=float, default=10.0, help="as given to medseg train")
    parser.add_argument("--spacing", type=float, default=6.0, help="mm, of the synthesised brains")
    parser.add_argument("--folder", type=Path, help="work here and keep it; a temporary one if not given")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        write_task(folder, asked.maps, asked.spacing)
        test = read_test(folder)
        model, kept, spent = train_medseg(folder, asked.minutes)
        ours = curve_of_medseg(model, kept, spent, test)
        print("medseg train\n   CPU min    Dice", flush=True)
        print("\n".join(f"{minutes:>10.2f}{dice:>8.3f}" for minutes, dice in ours), flush=True)
        theirs, words = curve_of_nnunet(folder, asked.nnunet, spent, test)
    print(f"nnU-Net v2: {words}\n   CPU min    Dice")
    print("\n".join(f"{minutes:>10.2f}{dice:>8.3f}" for minutes, dice in theirs))
    best = theirs[-1][1]
    reached = time_to(ours, best)
    print(f"equal budget of {spent / 60:.1f} CPU minutes: medseg {ours[-1][1]:.3f}, nnU-Net {best:.3f}")
    words = "not within the budget" if reached is None else f"after {reached:.2f} CPU minutes"
    print(f"medseg reaches nnU-Net's last Dice {words} (nnU-Net: {theirs[-1][0]:.2f})")


if __name__ == "__main__":
    main()
