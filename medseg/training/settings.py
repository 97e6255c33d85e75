"""What a user may choose about training; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field

from medseg.models.loading import DEVICES
from medseg.settings_bounds import check_bounds

NETWORK_NAMES = ("DynUNet", "UNet", "SegResNet", "SwinUNETR", "MedNeXt", "SegFormer3D")
"""Networks that a plan knows how to size."""

RECIPES = ("brain-mri", "brain-lesions", "nuclei")
"""Bundled models whose making can be repeated."""


@dataclass(frozen=True)
class FineTuneSettings:
    """Choices of one fine-tuning.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    steps: int = field(
        default=400, metadata={"help": "steps of the optimiser, four windows each", "min": 1, "max": 100_000}
    )
    learning_rate: float = field(default=1.5e-3, metadata={"help": "at its highest", "min": 1e-6, "max": 0.1})
    synthetic_windows: int = field(
        default=1,
        metadata={
            "help": "of the four windows, how many are synthetic, so that little is forgotten",
            "min": 0,
            "max": 3,
        },
    )
    seed: int = field(default=0, metadata={"help": "start of every random choice", "min": 0, "max": 2**31})
    threads: int = field(
        default=0, metadata={"help": "processor threads; 0 leaves the choice to torch", "min": 0, "max": 1024}
    )

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class TrainingSettings:
    """Choices of one training from images and labels.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    minutes: float = field(
        default=30.0,
        metadata={
            "help": "about how long it may take, checks included; on two processor cores half an hour is a "
            "first usable model",
            "unit": "min",
            "min": 0.1,
            "max": 100_000,
        },
    )
    folds: int = field(
        default=1,
        metadata={
            "help": "networks that are trained, each with other cases held out; several answer together",
            "min": 1,
            "max": 10,
        },
    )
    labels: str = field(
        default="auto",
        metadata={
            "help": "what ids in labels mean; auto takes gapless numbers that differ in count for objects",
            "choices": ("auto", "classes", "objects"),
        },
    )
    network: str = field(
        default="auto",
        metadata={
            "help": "network of the plan; auto takes UNet on a cpu, DynUNet elsewhere",
            "choices": ("auto", *NETWORK_NAMES),
        },
    )
    plan: str = field(
        default="",
        metadata={"help": "plan.json of another training, edited if wanted, in place of a new plan"},
    )
    steps: int = field(
        default=0,
        metadata={"help": "steps of the optimiser; 0 lets --minutes decide", "min": 0, "max": 10_000_000},
    )
    learning_rate: float = field(
        default=0.0, metadata={"help": "at its highest; 0 takes the plan's", "min": 0, "max": 0.1}
    )
    patience: int = field(
        default=5,
        metadata={
            "help": "checks in a row without a better score after which it ends; there are ten in all, 0 "
            "never ends early",
            "min": 0,
            "max": 10,
        },
    )
    skip_faulty: bool = field(
        default=False, metadata={"help": "train without the cases that have a grave fault"}
    )
    device: str = field(
        default="auto",
        metadata={"help": "where the network learns; auto takes the fastest there is", "choices": DEVICES},
    )
    seed: int = field(default=0, metadata={"help": "start of every random choice", "min": 0, "max": 2**31})
    threads: int = field(
        default=0, metadata={"help": "processor threads; 0 leaves the choice to torch", "min": 0, "max": 1024}
    )
    export: str = field(
        default="bundle",
        metadata={
            "help": "torchscript adds models/model.ts to the bundle",
            "choices": ("bundle", "torchscript"),
        },
    )
    licence: str = field(default="not stated", metadata={"help": "under which the model may be used"})

    def __post_init__(self) -> None:
        check_bounds(self)
