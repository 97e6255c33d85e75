"""What published implementations say of our test vectors; run by `make_oracles.sh`, one at a time.

    python metric_oracles.py stardist|panoptica|surface [SHARED_DATA]

Nothing here imports medseg: each oracle lives in its own environment.
"""

from __future__ import annotations

import json
import runpy
import sys
import types
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = ROOT / "tests" / "measure" / "oracle_numbers.json"
sys.path.insert(0, str(ROOT / "tests"))

import metric_vectors as vectors  # noqa: E402  (needs the path above)

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def stardist_matching() -> Any:
    """Load StarDist's `matching` by its file: importing the package would need TensorFlow."""

    def _raise(error: Exception) -> None:
        raise error

    helper = types.ModuleType("csbdeep.utils")
    vars(helper)["_raise"] = _raise
    sys.modules.update({"csbdeep": types.ModuleType("csbdeep"), "csbdeep.utils": helper})
    path = distribution("stardist").locate_file("stardist/matching.py")
    return runpy.run_path(str(path))["matching"]


def stardist(data: Path | None) -> dict[str, Any]:
    """Matching scores of crowded balls, and of StarDist's own demo mask against a shifted copy."""
    matching = stardist_matching()
    pairs = {f"crowded {seed}": vectors.crowded_objects(seed) for seed in range(4)}
    if data is not None:
        import tifffile

        mask = tifffile.imread(data / "instances" / "stardist" / "mask3d.tif")
        pairs["demo"] = (np.roll(mask, (1, 2, 1), (0, 1, 2)), mask)
    keep = (
        "tp",
        "fp",
        "fn",
        "precision",
        "recall",
        "accuracy",
        "f1",
        "mean_matched_score",
        "panoptic_quality",
    )
    return {
        name: {str(t): {k: float(getattr(matching(true, some, t), k)) for k in keep} for t in THRESHOLDS}
        for name, (some, true) in pairs.items()
    }


def panoptica(data: Path | None) -> dict[str, Any]:
    """Panoptic quality of crowded balls and of panoptica's own vertebrae."""
    from panoptica import InputType, NaiveThresholdMatching, Panoptica_Evaluator

    pairs = {f"crowded {seed}": vectors.crowded_objects(seed) for seed in range(4)}
    if data is not None:
        import nibabel

        folder = data / "instances" / "panoptica_spine"
        some, true = (
            np.asarray(
                nibabel.Nifti1Image.from_filename(folder / f"unmatched_instance_{x}.nii.gz").dataobj
            ).astype(np.uint16)
            for x in ("pred", "ref")
        )
        pairs["spine"] = (some, true)
    keep = {"tp": "tp", "fp": "fp", "fn": "fn", "rq": "rq", "sq": "sq", "pq": "pq"}
    found: dict[str, Any] = {}
    for name, (some, true) in pairs.items():
        found[name] = {}
        for threshold in (0.5, 0.7, 0.9):
            evaluator = Panoptica_Evaluator(
                expected_input=InputType.UNMATCHED_INSTANCE,
                instance_matcher=NaiveThresholdMatching(matching_threshold=threshold),
            )
            result = evaluator.evaluate(some, true)["ungrouped"]
            found[name][str(threshold)] = {k: float(getattr(result, v)) for k, v in keep.items()}
    return found


def surface(_: Path | None) -> dict[str, Any]:
    """Surface distances by DeepMind's package, and the BraTS lesion rules spelt out on top of it."""
    import surface_distance as sd

    masks = {}
    for seed in range(6):
        some, true = (a > 0 for a in vectors.scattered_lesions(seed))
        for spacing in ((1.0, 1.0, 1.0), (0.5, 0.8, 2.5)):
            distances = sd.compute_surface_distances(true, some, spacing)
            masks[f"{seed} {spacing}"] = {
                "hd95": sd.compute_robust_hausdorff(distances, 95),
                "hd": sd.compute_robust_hausdorff(distances, 100),
                "assd": sd.compute_average_surface_distance(distances),
                "nsd1": sd.compute_surface_dice_at_tolerance(distances, 1.0),
                "areas": [float(distances[f"surfel_areas_{x}"].sum()) for x in ("gt", "pred")],
            }
    lesions = {
        f"{seed} {rules}": brats_score(*vectors.scattered_lesions(seed), *limits)
        for seed in range(12)
        for rules, limits in {"BraTS-GLI": (3, 50), "BraTS-MEN": (1, 50), "BraTS-MET": (1, 2)}.items()
    }
    return {"distances": masks, "lesions": lesions}


def brats_score(some: Any, true: Any, dilation: int, least: int) -> dict[str, float]:
    """The published steps, one whole-volume mask per lesion."""
    import cc3d
    import surface_distance as sd
    from scipy import ndimage

    cube = ndimage.generate_binary_structure(3, 2)
    components = cc3d.connected_components(some, connectivity=26)
    grown = cc3d.connected_components(ndimage.binary_dilation(true, cube, dilation), connectivity=26)
    claimed: set[int] = set()
    dice, hd95, found, missed = 0.0, 0.0, 0, 0
    for one in range(1, grown.max() + 1):
        lesion = (grown == one) & (true > 0)
        members = set(np.unique(components[ndimage.binary_dilation(lesion, cube, dilation)])) - {0}
        claimed |= members
        if lesion.sum() <= least:
            continue
        found, missed = found + bool(members), missed + (not members)
        answer = np.isin(components, list(members))
        dice += 2 * (answer & lesion).sum() / (answer.sum() + lesion.sum())
        distance = sd.compute_robust_hausdorff(sd.compute_surface_distances(lesion, answer, (1, 1, 1)), 95)
        hd95 += distance if np.isfinite(distance) else 374
    invented = int(components.max()) - len(claimed)
    count = found + missed + invented
    return {
        "tp": found,
        "fp": invented,
        "fn": missed,
        "dice": dice / count if count else 1.0,
        "hd95": (hd95 + 374 * invented) / count if count else 0.0,
    }


def plain(value: Any) -> Any:
    """Numbers that JSON has; NaN and infinity become text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return round(float(value), 9) if np.isfinite(value) else str(float(value))


def main() -> None:
    oracle = sys.argv[1]
    data = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    numbers = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    numbers[oracle] = plain({"stardist": stardist, "panoptica": panoptica, "surface": surface}[oracle](data))
    NUMBERS.write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n")
    print(f"{oracle}: written to {NUMBERS.name}")


if __name__ == "__main__":
    main()
