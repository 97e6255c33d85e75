"""The bundled models made again, by name: `medseg train --recipe NAME`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medseg.errors import ReadError
from medseg.training.brain_lesions import make_brain_lesions
from medseg.training.brain_mri import make_brain_mri
from medseg.training.nuclei import make_nuclei
from medseg.training.workplace import threads, workplace

LABEL_TABLE = "generation_labels.npy"
"""What tells a folder of SynthSeg's training label maps."""

FROM_MAPS = {"brain-mri": make_brain_mri, "brain-lesions": make_brain_lesions}
"""Recipes that learn from heads, which are drawn from SynthSeg's label maps."""


def make_bundled(
    name: str, maps: Path | None, folder: Path, report: Callable[[str], None], thread_count: int = 0
) -> Path:
    """Repeat the making of a bundled model; stopped, the same call goes on where it was.

    Args:
        name: one of `medseg.training.settings.RECIPES`.
        maps: folder with `training_seg_01.nii.gz` … `training_seg_20.nii.gz` and `generation_labels.npy` of
            SynthSeg (Apache-2.0), of which 01-16 are learned from and 17-20 checked on; None for `nuclei`,
            which draws everything that it learns from.
        folder: bundle to make; must not exist.
        report: told one line per check.
        thread_count: processor threads; 0 leaves the choice to torch.

    Returns:
        The bundle.

    Raises:
        ReadError: `NO_LABEL_MAPS`; `TRAINING_CHANGED`, another training has begun there.
        WriteError: the folder exists, or cannot be written.
    """
    if name in FROM_MAPS and (maps is None or not (maps / LABEL_TABLE).is_file()):
        raise ReadError(
            "NO_LABEL_MAPS",
            f"expected SynthSeg's folder of label maps with {LABEL_TABLE} for the recipe {name}, got none; "
            "name it as the dataset",
        )
    with workplace(folder, f"recipe {name}") as partial, threads(thread_count):
        if maps is not None and name in FROM_MAPS:
            FROM_MAPS[name](maps, partial / "run", partial / "bundle", report)
        else:
            make_nuclei(partial / "run", partial / "bundle", report)
    return folder
