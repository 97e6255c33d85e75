"""How to run a model, beyond what its card says."""

from __future__ import annotations

from dataclasses import dataclass, field

from medseg.errors import SettingsError
from medseg.inference.backends.wishes import BACKENDS, PRECISIONS
from medseg.models.loading import DEVICES
from medseg.preprocess.sanity import SANITY
from medseg.settings_bounds import check_bounds


@dataclass(frozen=True)
class InferenceSettings:
    """Choices of one run.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    device: str = field(
        default="auto",
        metadata={"help": "where the network runs; auto takes the fastest there is", "choices": DEVICES},
    )
    overlap_fraction: float | None = field(
        default=None,
        metadata={
            "help": "part of a window that the next one shares; the model's own if not given",
            "min": 0.0,
            "max": 0.95,
        },
    )
    max_memory_gb: float | None = field(
        default=None,
        metadata={
            "help": "plan the run to fit, or refuse it and name what it would need",
            "unit": "GB",
            "min": 0.1,
            "max": 4096.0,
        },
    )
    threads: int = field(
        default=0,
        metadata={"help": "processor threads; 0 leaves the choice to torch", "min": 0, "max": 1024},
    )
    backend: str = field(
        default="auto",
        metadata={
            "help": "what runs the network on a cpu; auto takes OpenVINO where a trial finds it faster and "
            "equal",
            "choices": BACKENDS,
        },
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "of the arithmetic; auto is f32 on a cpu, f16 where a graphics processor may; int8 only "
            "where a check on the scan itself finds it as good as f32",
            "choices": PRECISIONS,
        },
    )
    mirror: bool = field(
        default=False,
        metadata={"help": "average over mirrored windows where the model allows it; up to 8 times the time"},
    )
    classes: tuple[str, ...] = field(
        default=(), metadata={"help": "structure to keep, by name or id; repeatable, all if not given"}
    )
    roi_mm: tuple[float, float, float, float, float, float] | None = field(
        default=None,
        metadata={
            "help": "look only into this box: x from, x to, y from, y to, z from, z to, RAS",
            "unit": "mm",
            "min": -1e6,
            "max": 1e6,
        },
    )
    roi_voxels: tuple[int, int, int, int, int, int] | None = field(
        default=None,
        metadata={
            "help": "look only into this box: i from, i to, j from, j to, k from, k to, ends not included",
            "min": 0,
            "max": 2**31,
        },
    )
    crop_to_body: bool = field(
        default=False, metadata={"help": "leave out the air around the body; borders may differ slightly"}
    )
    uncertainty: bool = field(
        default=False, metadata={"help": "also make a map of how unsure the model is, 0 to 1"}
    )
    skip_atlas: bool = field(
        default=False,
        metadata={"help": "leave the network's labels as they are, where the model has an atlas to fit"},
    )
    object_diameter_mm: float | None = field(
        default=None,
        metadata={
            "help": "diameter of a typical object, for models of objects such as nuclei (0.009 for 9 um); "
            "the model's own or an estimate from the image if not given",
            "unit": "mm",
            "min": 1e-6,
            "max": 1000.0,
        },
    )
    sanity: str = field(
        default="refuse",
        metadata={
            "help": "a scan that cannot be what the model is for (modality, field of view): refuse it, "
            "warn only, or do not look",
            "choices": SANITY,
        },
    )
    rough_model: str = field(
        default="",
        metadata={"help": "name or path of a model that finds the region first; the other sees only that"},
    )
    rough_classes: tuple[str, ...] = field(
        default=(),
        metadata={"help": "class that the rough model looks for; repeatable; every one if not given"},
    )
    rough_margin_mm: float = field(
        default=20.0,
        metadata={
            "help": "what is kept around the region that the rough model finds",
            "unit": "mm",
            "min": 0.0,
            "max": 1000.0,
        },
    )

    def __post_init__(self) -> None:
        if self.rough_model and (self.roi_mm is not None or self.roi_voxels is not None):
            raise SettingsError(
                "BAD_SETTING", "expected one way to find the region, got a box and a rough model; give one"
            )
        check_bounds(self)
        if self.roi_mm is not None and self.roi_voxels is not None:
            raise SettingsError("BAD_SETTING", "expected one region, got roi_mm and roi_voxels; give one")
        if self.rough_model and self.roi_voxels is not None:  # voxels of what: the scan, or its crop?
            raise SettingsError(
                "BAD_SETTING", "expected a region in mm beside a rough model, got voxels; give roi_mm"
            )
        if self.roi_voxels is not None and min(self.roi_voxels[1::2]) < 1:
            raise SettingsError(
                "BAD_SETTING", f"expected roi_voxels from, to along i, j, k, got {self.roi_voxels}; give six"
            )
