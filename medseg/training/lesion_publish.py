"""From trained weights to the bundle `brain-lesions`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from medseg.instances.boxes import INSIDE
from medseg.training.bundle_files import (
    bundle_metadata,
    inference_config,
    percentiles,
    postprocessing,
    preprocessing,
    unet,
    write_bundle,
    write_weights,
)
from medseg.training.lesion_task import (
    DETECTOR_CHANNELS,
    DETECTOR_NORM,
    DETECTOR_STRIDES,
    MASK_CHANNELS,
    MASK_STRIDES,
    LesionNetworks,
    LesionRecipe,
)

LESION_BUNDLE_VERSION = "0.1.0"
PERCENTILES = (0.5, 99.5)
SCORE_THRESHOLD = 0.3
MOST_OVERLAP = 0.3
LEAST_VOLUME_MM3 = 30.0
MAPS = (
    "centre of a lesion's box",
    "logarithm of its side along i in parts of 12 mm",
    "logarithm of its side along j in parts of 12 mm",
    "logarithm of its side along k in parts of 12 mm",
    "way to its centre along i in parts of 4 mm",
    "way to its centre along j in parts of 4 mm",
    "way to its centre along k in parts of 4 mm",
    "lesion",
)
"""What the detector's channels are (`medseg.instances.boxes`)."""


def write_lesion_bundle(networks: LesionNetworks, recipe: LesionRecipe, folder: Path) -> None:
    """Write the `brain-lesions` bundle.

    MONAI runs the detector alone and gets the map of all lesions; medseg draws each in its box.

    Args:
        networks: with the weights to publish.
        recipe: how they were trained.
        folder: bundle to make.
    """
    shape, spacing = recipe.last_shape, recipe.lesions.head.spacing_mm
    inference = inference_config(
        unet(len(MAPS), DETECTOR_CHANNELS, DETECTOR_STRIDES) | {"norm": list(DETECTOR_NORM)},
        shape,
        preprocessing([spacing] * 3, percentiles(*PERCENTILES), "RAS"),
        postprocessing({}, {"threshold": 0.0}),  # on logits
    )
    masks = unet(1, MASK_CHANNELS, MASK_STRIDES) | {"in_channels": 3, "norm": "instance"}
    metadata = bundle_metadata(
        {
            "name": "brain-lesions",
            "version": LESION_BUNDLE_VERSION,
            "changelog": {LESION_BUNDLE_VERSION: "first version"},
            "task": "Detection and segmentation of single lesions in head MRI, brighter or darker than brain",
            "description": "Tumours and other focal lesions of the brain, each with box, mask and score, "
            "learned from synthetic images alone",
            "references": [
                "Zhou et al., Objects as Points, 2019",
                "Billot et al., SynthSeg: segmentation of any contrast, Medical Image Analysis 86, 2023",
            ],
        },
        modality="MR",
        images=("head MRI",),
        shape=["8*n"] * 3,
        channels={str(n): name for n, name in enumerate(MAPS)},
        own={
            "label_ids": {str(n): int(n == INSIDE) for n in range(len(MAPS))},
            "colours": {"1": [230, 60, 40]},
            "codes": {"1": {"scheme": "SCT", "value": "52988006", "meaning": "Lesion"}},
            "detection": {
                "masks": masks | {"weights_file": "models/masks.pt"},
                "score_threshold": SCORE_THRESHOLD,
                "most_overlap": MOST_OVERLAP,
                "min_volume_mm3": LEAST_VOLUME_MM3,
                "merge_touching": True,
            },
        },
    )
    write_bundle(folder, networks.detector, metadata, inference, asdict(recipe))
    write_weights(networks.masks, folder / "models" / "masks.pt")
