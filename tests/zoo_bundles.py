"""Bundles of the MONAI model zoo with random weights, and MONAI's own run of them.

`tests/zoo/NAME` holds the recipe and the metadata of a published bundle, written after it: same
transforms, inferer, order and spellings. Weights are random from a seed; networks and windows are
smaller unless `full`, so that a run takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ZOO = Path(__file__).parent / "zoo"

SMALL_UNET = {"channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1}
SMALL_SEGRESNET = {"init_filters": 8, "blocks_down": [1, 1, 2], "blocks_up": [1, 1]}
SMALL_DYNUNET = {
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2],
    "filters": [8, 16, 32],
}
SMALL: dict[str, dict[str, Any]] = {
    "spleen_ct_segmentation": SMALL_UNET,
    "wholeBody_ct_segmentation": SMALL_SEGRESNET,
    "brats_mri_segmentation": SMALL_SEGRESNET,
    "pancreas_ct_dints_segmentation": {},
    "multi_organ_segmentation": {},
    "swin_unetr_btcv_segmentation": {"feature_size": 12},
    "wholeBrainSeg_Large_UNEST_segmentation": {},
    "renalStructures_UNEST_segmentation": {},
    "prostate_mri_anatomy": SMALL_UNET,
    "pediatric_abdominal_ct_segmentation": SMALL_DYNUNET,
}
"""Arguments of a smaller network of each bundle."""

WINDOWS = {"brats_mri_segmentation": [48, 48, 32], "swin_unetr_btcv_segmentation": [64, 64, 64]}
"""Smaller windows where not 32 voxels along each axis; SwinUNETR halves five times."""

WITH_CODE = ("wholeBrainSeg_Large_UNEST_segmentation", "renalStructures_UNEST_segmentation")
"""Bundles whose network is a script of their own; `write_zoo_bundle` writes another one in its place."""

SCRIPT = '''
import torch


class UNesT(torch.nn.Sequential):
    """Takes what the published network takes; answers otherwise."""

    def __init__(self, in_channels, out_channels, **others):
        super().__init__(
            torch.nn.Conv3d(in_channels, 6, 3, padding=1),
            torch.nn.LeakyReLU(),
            torch.nn.Conv3d(6, 6, 3, padding=2, dilation=2),
            torch.nn.LeakyReLU(),
            torch.nn.Conv3d(6, out_channels, 1),
        )
'''


def zoo_recipe(name: str) -> dict[str, Any]:
    """The recipe of a bundle as it is written."""
    path = ZOO / name / "inference.json"
    if path.is_file():
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    import yaml

    return dict(yaml.safe_load(path.with_suffix(".yaml").read_text()))


def write_zoo_bundle(
    folder: Path, name: str, *, full: bool = False, changes: dict[str, Any] | None = None
) -> Path:
    """A bundle with random weights, ready to run.

    Args:
        folder: where to write it.
        name: of the bundle.
        full: keep the published network and window.
        changes: outermost keys of the recipe that replace the published ones.
    """
    bundle = folder / name
    for part in ("configs", "models"):
        (bundle / part).mkdir(parents=True)
    recipe = zoo_recipe(name) | (changes or {})
    if not full:
        recipe["network_def"] = recipe["network_def"] | SMALL[name]
        recipe["inferer"]["roi_size"] = WINDOWS.get(name, [32, 32, 32])
    if "dints_space" in recipe:
        _write_search_code(bundle / "models", recipe, full=full)
    if name in WITH_CODE:
        script = recipe["network_def"]["_target_"].split(".")
        (bundle / "scripts" / "networks").mkdir(parents=True)
        (bundle / "scripts" / "networks" / f"{script[2]}.py").write_text(SCRIPT)
    metadata = json.loads((ZOO / name / "metadata.json").read_text())
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    if (ZOO / name / "inference.yaml").is_file():
        import yaml

        (bundle / "configs" / "inference.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    else:
        (bundle / "configs" / "inference.json").write_text(json.dumps(recipe))
    _write_weights(bundle)
    return bundle


def _write_search_code(models: Path, recipe: dict[str, Any], *, full: bool) -> None:
    """Which paths and operations a search found, as a file of arrays; here they are made up."""
    import torch

    if not full:
        recipe["dints_space"] |= {"num_blocks": 3, "num_depths": 3, "channel_mul": 0.25}
    blocks, depths = recipe["dints_space"]["num_blocks"], recipe["dints_space"]["num_depths"]
    paths = 3 * depths - 2
    chance = np.random.default_rng(3)
    code = {
        "arch_code_a": (chance.random((blocks, paths)) < 0.6).astype(np.float64),
        "arch_code_c": chance.integers(0, 5, (blocks, paths)).astype(np.float64),
        "node_a": np.ones((blocks + 1, depths)),
    }
    for block in range(blocks):
        code["arch_code_a"][block, 0] = 1
    name = str(recipe["arch_ckpt_path"]).strip("'").rpartition("/")[2]
    as_arrays = "from_numpy" in recipe["network_def"]["node_a"]
    stored: dict[str, Any] = dict(code) if as_arrays else code | {"node_a": torch.from_numpy(code["node_a"])}
    torch.save(stored, models / name)


def _write_weights(bundle: Path) -> None:
    import torch

    from medseg.models.bundle import build_bundle, bundle_weights, read_bundle
    from medseg.models.networks import build_network
    from medseg.models.trusted import TrustedRecipe

    card = read_bundle(bundle, trust_code=True)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        if card.network.target.startswith("trusted:"):
            network = TrustedRecipe(bundle, zoo_recipe(bundle.name)).value("network_def")
        else:
            network, _ = build_network(card.network.target, card.network.arguments)
        for key, value in network.state_dict().items():
            if "running_var" not in key and value.is_floating_point() and value.ndim > 1:
                value.normal_(0.0, (2.0 / value[0].numel()) ** 0.5)
    file = bundle_weights(bundle, card)[0]
    torch.save({"model": network.state_dict(), "epoch": np.float64(3)}, file)
    build_bundle(bundle, card, trust_code=True)


@dataclass(frozen=True)
class MonaiRun:
    """What MONAI makes of a case.

    Attributes:
        labels: on the grid of the source.
        margin: difference of the two best scores, or of the scores and the threshold, brought to the
            source's grid as the recipe brings labels or scores there.
    """

    labels: npt.NDArray[np.int64]
    margin: npt.NDArray[np.float32]


def monai_run(bundle: Path, files: Sequence[Path], network: Any) -> MonaiRun:
    """MONAI's own transforms, inferer and inversion of a bundle's recipe.

    Args:
        bundle: as `write_zoo_bundle` wrote it.
        files: of the case, one per channel.
        network: of the bundle, with its weights.
    """
    import torch
    from monai.bundle.config_parser import ConfigParser

    config = next((bundle / "configs").glob("inference.*"))
    recipe = ConfigParser.load_config_file(config) | {"bundle_root": str(bundle)}
    _without(recipe, "preprocessing", reader=True)
    _without(recipe, "postprocessing", saver=True)
    with_labels = _labels_by_the_nearest(recipe["postprocessing"]["transforms"])
    data = _prepared(ConfigParser(recipe), files)
    inferer = ConfigParser(recipe).get_parsed_content("inferer")
    with torch.inference_mode():
        answer = inferer(data["image"][None], network)[0]
    parser = ConfigParser(recipe)
    before = parser.get_parsed_content("preprocessing")
    images = before({"image": [str(f) for f in files] if len(files) > 1 else str(files[0])})
    labels = _after(recipe, with_labels, parser, images, answer)
    home = [step for step in with_labels if step["_target_"] in ("Activationsd", "Invertd")]
    scores = np.asarray(_after(recipe, home, parser, images, answer))
    if any(step["_target_"] == "AsDiscreted" and "threshold" in step for step in with_labels):
        margin = np.abs(scores - 0.5).min(axis=0)
    else:
        best = np.sort(scores, axis=0)[-2:]
        margin = best[1] - best[0]
    return MonaiRun(np.asarray(labels)[0].astype(np.int64), margin.astype(np.float32))


def _labels_by_the_nearest(steps: list[Any]) -> list[Any]:
    """One published recipe interpolates between the numbers of labels, which is no label map."""
    order = [step["_target_"] for step in steps]
    if "AsDiscreted" not in order[: order.index("Invertd")]:
        return steps
    return [step | {"nearest_interp": True} if step["_target_"] == "Invertd" else step for step in steps]


def _prepared(parser: Any, files: Sequence[Path]) -> Any:
    before = parser.get_parsed_content("preprocessing")
    return before({"image": [str(f) for f in files] if len(files) > 1 else str(files[0])})


def _after(recipe: dict[str, Any], steps: list[Any], parser: Any, images: Any, answer: Any) -> Any:
    from monai.bundle.config_parser import ConfigParser

    own = ConfigParser(recipe | {"postprocessing": {"_target_": "Compose", "transforms": steps}})
    after = own.get_parsed_content("postprocessing")
    for step in after.transforms:  # they invert what was done to these very images
        if hasattr(step, "transform"):
            step.transform = parser.get_parsed_content("preprocessing")
    return after({"image": images["image"], "pred": answer.clone()})["pred"]


def _without(recipe: dict[str, Any], key: str, *, reader: bool = False, saver: bool = False) -> None:
    """Leave out what needs another package, or writes files."""
    steps = recipe[key]["transforms"]
    if reader:
        steps = [{k: v for k, v in step.items() if k != "reader"} for step in steps]
    if saver:
        steps = [step for step in steps if step["_target_"] != "SaveImaged"]
    recipe[key] = recipe[key] | {"transforms": steps}
