"""A perfect segmenter cut into blocks: what does the stitching alone break?

Every block is "segmented" by cropping the truth and renaming its labels at random. Three ways to join
the blocks are compared: medseg's `stitch` (labels of something else, one shared voxel), medseg's
decoder in blocks (heights of the truth; nothing to stitch), and Cellpose's contributed stitcher, if
its file is given:

    pip download --no-deps cellpose==4.2.1 && unzip cellpose-4.2.1*.whl && pip install dask-image
    python benchmarks/instances_stitching.py --data ../shared/data \
        --cellpose cellpose/contrib/distributed_segmentation.py

A true object is split if it is the main object of two or more labels; merged if its main label is that
of another object too. Nothing of Cellpose is copied: its functions are taken from the file.
"""

from __future__ import annotations

import argparse
import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.instances.decode import MergeRule, decode
from medseg.instances.fields import distance_to_background
from medseg.instances.grid import Block, BlockGrid, Triple, triple
from medseg.instances.heights import ClassMask, IntensityHeight
from medseg.instances.stitching import stitch

Labels = npt.NDArray[Any]
Spacing = tuple[float, float, float]
Way = Callable[[Labels, Triple, Spacing], Labels]

PEER_FUNCTIONS = {
    "remove_overlaps", "get_nblocks", "global_segment_ids", "block_faces", "get_block_crops",
    "determine_merge_relabeling", "adjacent_faces", "block_face_adjacency_graph", "shrink_labels",
}  # fmt: skip


def packed_nuclei(shape: Triple, spacing: Spacing, diameter: float, nearest: float, seed: int = 0) -> Labels:
    """Balls of a diameter around random points, cut where they would overlap.

    Points are thrown until they no longer fit; none is nearer to another one than `nearest` diameters.
    """
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(seed)
    centres = np.empty((0, 3))
    for point in rng.uniform(0, np.multiply(shape, spacing), (30_000, 3)):
        if not len(centres) or ((centres - point) ** 2).sum(axis=1).min() > (nearest * diameter) ** 2:
            centres = np.vstack([centres, point])
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3) * spacing
    away, which = cKDTree(centres).query(places)
    labels = np.where(away < diameter / 2, which + 1, 0).reshape(shape)
    return np.asarray(np.unique(labels, return_inverse=True)[1].reshape(shape))


def heights_of(truth: Labels, spacing: Spacing) -> npt.NDArray[np.float32]:
    """What a perfect network would say: each object's distance to its border, 1 at its deepest."""
    from scipy import ndimage

    out = np.zeros(truth.shape, np.float32)
    for label, part in enumerate(ndimage.find_objects(truth), start=1):
        if part is None:
            continue
        wider = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in part)
        mask = truth[wider] == label
        depth = distance_to_background(mask, spacing, 1e3)
        out[wider][mask] = depth[mask] / depth.max()
    return out


def _largest_partner(one: Labels, other: Labels, shared: Labels) -> Labels:
    """For each number in `one`, the number in `other` that it shares most voxels with."""
    order = np.lexsort((-shared, one))
    first = np.unique(one[order], return_index=True)[1]
    return np.asarray(other[order][first])


def faults(truth: Labels, found: Labels) -> tuple[int, int, float, float]:
    """Split and merged true objects, F1 at IoU 0.5, and AP at IoU 0.9 (TP / (TP + FP + FN))."""
    keys, shared = np.unique(np.stack([truth.ravel(), found.ravel()]), axis=1, return_counts=True)
    both = (keys > 0).all(axis=0)
    true, label, shared = keys[0, both], keys[1, both], shared[both]
    sizes, others = np.bincount(truth.ravel()), np.bincount(found.ravel())
    split = int((np.bincount(_largest_partner(label, true, shared)) > 1).sum())
    main = _largest_partner(true, label, shared)
    merged = int((np.bincount(main)[main] > 1).sum())
    iou = shared / (sizes[true] + others[label] - shared)
    counts = int((sizes[1:] > 0).sum()), int((others[1:] > 0).sum())
    hit, sharp = int((iou > 0.5).sum()), int((iou >= 0.9).sum())
    return split, merged, 2 * hit / sum(counts), sharp / (sum(counts) - sharp)


def renamed(labels: Labels, rng: np.random.Generator) -> Labels:
    """The same objects under other names, as a segmenter that sees only this part would give them."""
    used, place = np.unique(labels, return_inverse=True)
    names = rng.permutation(len(used)) + 1
    names[used == 0] = 0
    return np.asarray(names[place].reshape(labels.shape))


def by_stitch(truth: Labels, block: Triple, _spacing: Spacing) -> Labels:
    rng = np.random.default_rng(1)

    def perfect(part: Block) -> Labels:
        return renamed(truth[part.slices], rng)

    return stitch(perfect, BlockGrid(triple(truth.shape), block))


def by_decoder(truth: Labels, block: Triple, spacing: Spacing) -> Labels:
    source = IntensityHeight(ClassMask((truth > 0).astype(np.uint8), 1), heights_of(truth, spacing), spacing)
    return decode(source, MergeRule(h=0.1), BlockGrid(triple(truth.shape), block))[0]


def peer_from(file: Path, diameter_voxels: int) -> Way:
    """Cellpose's stitcher around a perfect segmenter, in the order of its `process_block`."""
    importlib.import_module("dask_image.ndmeasure")
    dask_image = importlib.import_module("dask_image")
    import scipy.ndimage
    import scipy.sparse.csgraph

    tree = ast.parse(file.read_text())
    tree.body = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in PEER_FUNCTIONS
    ]
    peer: dict[str, Any] = {"np": np, "scipy": scipy, "dask_image": dask_image}
    exec(compile(tree, file.name, "exec"), peer)  # noqa: S102  the peer's own functions, named by the user

    def run(truth: Labels, block: Triple, _spacing: Spacing) -> Labels:
        rng, size = np.random.default_rng(1), np.array(block)
        overlap = min(2 * diameter_voxels, min(block) - 1)  # what its trimming can take
        indices, crops = peer["get_block_crops"](truth.shape, size, overlap, None)
        out, faces, used = np.zeros(truth.shape, np.uint32), [], []
        for index, crop in zip(indices, crops, strict=True):
            part, trimmed = peer["remove_overlaps"](renamed(truth[crop], rng), crop, overlap, size)
            part, ids = peer["global_segment_ids"](part, index, peer["get_nblocks"](truth.shape, size))
            out[tuple(trimmed)] = part
            faces.append(peer["block_faces"](part))
            used.append(np.array([i for i in ids if i], dtype=np.int64))
        lookup = peer["determine_merge_relabeling"](indices, faces, np.concatenate(used))
        return np.asarray(lookup[out])

    return run


def cases(data: Path | None) -> list[tuple[str, Labels, Spacing, Triple, int]]:
    """(name, truth, spacing, block, diameter in voxels) of every volume."""
    found = [
        (
            "dense, isotropic",
            packed_nuclei((128, 128, 128), (1, 1, 1), 14, 0.72),
            (1, 1, 1),
            (64, 64, 64),
            14,
        ),
        (
            "sparse, isotropic",
            packed_nuclei((128, 128, 128), (1, 1, 1), 14, 1.3),
            (1, 1, 1),
            (64, 64, 64),
            14,
        ),
        ("dense, 4:1", packed_nuclei((64, 160, 160), (4, 1, 1), 14, 0.72), (4, 1, 1), (32, 80, 80), 14),
    ]
    if data is not None:
        import tifffile

        mask = tifffile.imread(data / "instances/stardist/mask3d.tif").astype(np.int64)
        found.append(("StarDist mask", mask, (2, 1, 1), (16, 31, 29), 12))
    return [(n, t, (float(s[0]), float(s[1]), float(s[2])), b, d) for n, t, s, b, d in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder that holds instances/stardist")
    parser.add_argument("--cellpose", type=Path, help="its contrib/distributed_segmentation.py")
    choice = parser.parse_args()
    print(f"{'volume':20}{'objects':>8}{'joined by':>22}{'split':>7}{'merged':>8}{'F1@.5':>8}{'AP@.9':>8}")
    for name, truth, spacing, block, diameter in cases(choice.data):
        ways: dict[str, Way] = {"medseg stitch": by_stitch, "medseg decoder": by_decoder}
        if choice.cellpose is not None:
            ways["Cellpose"] = peer_from(choice.cellpose, diameter)
        count = len(np.unique(truth[truth > 0]))
        for way, join in ways.items():
            split, merged, f1, ap = faults(truth, join(truth, block, spacing))
            print(f"{name:20}{count:8}{way:>22}{split:7}{merged:8}{f1:8.3f}{ap:8.3f}")


if __name__ == "__main__":
    main()
