"""Synthetic 3D nuclei as a fluorescence microscope would show them, with the truth beside.

The scene: ellipsoids with rough surfaces, from scattered to packed so densely that they flatten
each other. The image: uneven brightness and texture, cytoplasm and dark vacuoles, bright streaks,
out-of-focus ghosts and haze, loss of light with depth, a point-spread function that is wider along
the optical axis, slices farther apart than pixels, and Poisson-Gaussian noise.

All lengths are in voxels of an isotropic grid on which a typical nucleus is about 12 voxels wide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Range = tuple[float, float]

LEAST_VOXELS = 30
"""What is left of a nucleus that others crowd out is dropped below this."""


@dataclass(frozen=True)
class NucleiSettings:
    """What is drawn at random for each image, and between which ends.

    Attributes:
        shape: voxels of an image.
        margin: voxels around it that are made too and then cut off, so that nuclei outside shine in.
        diameter: mean diameter of an image's nuclei, drawn evenly on a log scale.
        size_spread: standard deviation of the log of single diameters.
        fill: part of the volume that nuclei would fill if none overlapped.
        spacing: least distance of centres in parts of the sum of radii; below 1 nuclei flatten each other.
        roughness: standard deviation of the surface's noise in parts of the radius.
        brightness_spread: standard deviation of the log of single nuclei's brightness.
        background: brightness between nuclei, in parts of a nucleus's.
        structure: part of images with cytoplasm and vacuoles in the background.
        blur: standard deviation of the point-spread function across the optical axis.
        blur_elongation: how much wider it is along the axis.
        anisotropy: distance of slices in parts of the grid's voxel; 1 where it is smaller.
        snr: mean signal of nuclei above the background over the noise's standard deviation in them,
            drawn evenly on a log scale.
        haze: brightness of out-of-focus light in parts of the signal.
        streaks: part of images with bright streaks.
    """

    shape: tuple[int, int, int] = (56, 56, 56)
    margin: int = 8
    diameter: Range = (8.5, 18.0)
    size_spread: Range = (0.05, 0.35)
    fill: Range = (0.03, 0.75)
    spacing: Range = (0.6, 1.1)
    roughness: Range = (0.0, 0.14)
    brightness_spread: Range = (0.0, 0.5)
    background: Range = (0.02, 0.6)
    structure: float = 0.6
    blur: Range = (0.3, 1.6)
    blur_elongation: Range = (1.0, 3.5)
    anisotropy: Range = (0.5, 3.5)
    snr: Range = (1.0, 20.0)
    haze: Range = (0.0, 0.4)
    streaks: float = 0.3


def synthesise_nuclei(
    rng: np.random.Generator, settings: NucleiSettings | None = None
) -> tuple[Float32, Int32]:
    """One image of nuclei and its objects.

    Args:
        rng: the same state gives the same image.
        settings: what may occur.

    Returns:
        `settings.shape` float32 image in arbitrary units, and int32 object ids, 0 for background.
        The optical axis is the first.
    """
    settings = settings or NucleiSettings()
    room = settings.margin
    i, j, k = (n + 2 * room for n in settings.shape)
    wide = replace(settings, shape=(i, j, k))
    labels = place_nuclei(rng, wide)
    image = render(labels, rng, wide)
    inner = tuple(slice(room, room + n) for n in settings.shape)
    return np.ascontiguousarray(image[inner]), np.ascontiguousarray(labels[inner])


def place_nuclei(rng: np.random.Generator, settings: NucleiSettings) -> Int32:
    """Objects of a scene; those at the border are cut off by it.

    Returns:
        `settings.shape` int32 ids, 0 for background; ids may have gaps.
    """
    shape = np.array(settings.shape)
    mean = _log_even(rng, settings.diameter)
    spread = rng.uniform(*settings.size_spread)
    margin = 0.5 * mean
    room = float(np.prod(shape + 2 * margin))
    wanted = rng.uniform(*settings.fill) * room / (np.pi / 6 * mean**3)
    count = max(1, int(wanted))
    radii = 0.5 * mean * np.exp(spread * rng.standard_normal(4 * count)).clip(0.45, 1.9)
    centres = rng.uniform(-margin, shape + margin, (4 * count, 3))
    kept = _apart(centres, radii, rng.uniform(*settings.spacing), count)
    rough = rng.uniform(*settings.roughness) * _smooth_noise(rng, settings.shape, 0.2 * mean)
    labels = np.zeros(settings.shape, dtype=np.int32)
    nearest = np.ones(settings.shape, dtype=np.float32)
    elongation = rng.uniform(0.0, 0.22)
    for number, index in enumerate(kept, start=1):
        axes = radii[index] * np.exp(elongation * rng.standard_normal(3)).clip(0.6, 1.6)
        _paint(labels, nearest, rough, number, centres[index], _ellipsoid(rng, axes))
    sizes = np.bincount(labels.ravel())
    labels[(sizes < LEAST_VOXELS)[labels]] = 0
    return labels


def _apart(centres: npt.NDArray[np.float64], radii: npt.NDArray[np.float64], part: float, most: int) -> Int32:
    """Indices of at most `most` centres, first come first served, with `part` of both radii between them."""
    kept = np.empty(most, dtype=np.int32)
    found = 0
    for index in range(len(centres)):
        others = kept[:found]
        gaps = np.linalg.norm(centres[others] - centres[index], axis=1)
        if (gaps >= part * (radii[others] + radii[index])).all():
            kept[found] = index
            found += 1
            if found == most:
                break
    return kept[:found]


def _ellipsoid(rng: np.random.Generator, axes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`(3, 3)` map of offsets to a space in which a randomly turned ellipsoid is the unit ball."""
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.asarray(turn / axes[:, None])


def _paint(
    labels: Int32,
    nearest: Float32,
    rough: Float32,
    number: int,
    centre: npt.NDArray[np.float64],
    to_ball: npt.NDArray[np.float64],
) -> None:
    """Give a nucleus the voxels that lie in it, and deeper than in those before it; in place."""
    half = 1.3 * np.sqrt((np.linalg.inv(to_ball) ** 2).sum(axis=1))
    low = np.maximum(0, np.floor(centre - half)).astype(int)
    high = np.minimum(labels.shape, np.ceil(centre + half) + 1).astype(int)
    if (high <= low).any():
        return
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    offsets = [np.arange(a, b) - c for a, b, c in zip(low, high, centre, strict=True)]
    depth = sum(
        (r[0] * offsets[0][:, None, None] + r[1] * offsets[1][:, None] + r[2] * offsets[2]) ** 2
        for r in to_ball.astype(np.float32)
    )
    depth = np.sqrt(depth) + rough[box]
    wins = depth < nearest[box]
    nearest[box][wins] = depth[wins]
    labels[box][wins] = number


def render(labels: Int32, rng: np.random.Generator, settings: NucleiSettings) -> Float32:
    """The image that a microscope makes of a scene.

    Args:
        labels: `(i, j, k)` objects; i is the optical axis.
        rng: all choices come from it.
        settings: what may occur.

    Returns:
        `(i, j, k)` float32; a typical nucleus is about 1 above the background.
    """
    from scipy import ndimage

    scale = _mean_diameter(labels)
    nuclei = _bright_nuclei(labels, scale, rng, settings)
    blur = rng.uniform(*settings.blur)
    sigma = (blur * rng.uniform(*settings.blur_elongation), blur, blur)
    scene = nuclei + _surroundings(labels, scale, rng, settings)
    image = ndimage.gaussian_filter(scene, sigma, mode="nearest", truncate=3.0)
    if rng.random() < 0.6:
        wide = scale * rng.uniform(0.4, 1.2)
        image += rng.uniform(*settings.haze) * ndimage.gaussian_filter(
            nuclei, (1.5 * wide, wide, wide), mode="nearest", truncate=2.0
        )
    image *= _shading(rng, labels.shape)
    step = max(1.0, rng.uniform(*settings.anisotropy))
    sliced = _slices(image, step)
    where = _slices((labels > 0).astype(np.float32), step) > 0.5
    signal = float(sliced[where].mean() - sliced[~where].mean()) if where.any() and not where.all() else 1.0
    noisy = add_noise(sliced, max(signal, 0.1), _log_even(rng, settings.snr), rng)
    if rng.random() < 0.4:
        noisy = ndimage.gaussian_filter(noisy, (0, *[rng.uniform(0.3, 0.8)] * 2), truncate=3.0)
    return _between_slices(noisy, step, labels.shape[0])


def add_noise(clean: Float32, signal: float, snr: float, rng: np.random.Generator) -> Float32:
    """Photon noise that grows with brightness, and the camera's, which does not.

    Args:
        clean: image without noise, `(i, j, k)`.
        signal: brightness of a typical object above the background.
        snr: `signal` over the standard deviation of all noise where the image is of the mean
            brightness of its brighter half.
        rng: decides how the noise is shared between both kinds, and the noise.

    Returns:
        `(i, j, k)` float32.
    """
    total = (signal / snr) ** 2
    photon = total * rng.uniform(0.3, 1.0)
    bright = float(clean[clean >= np.median(clean)].mean())
    gain = photon / max(bright, 1e-3)
    noisy = rng.poisson(np.maximum(clean, 0) / gain).astype(np.float32) * np.float32(gain)
    noisy += np.float32(np.sqrt(total - photon)) * rng.standard_normal(clean.shape, dtype=np.float32)
    return noisy


def _bright_nuclei(
    labels: Int32, scale: float, rng: np.random.Generator, settings: NucleiSettings
) -> Float32:
    """Nuclei without anything around them: single brightness, texture, nucleoli, rims."""
    count = int(labels.max()) + 1
    spread = rng.uniform(*settings.brightness_spread)
    brightness = np.exp(spread * rng.standard_normal(count)).clip(0.35, 2.5).astype(np.float32)
    brightness[0] = 0.0
    nuclei = brightness[labels]
    coarse = _smooth_noise(rng, labels.shape, rng.uniform(0.06, 0.2) * scale)
    nuclei *= np.maximum(0.1, 1 + rng.uniform(0.0, 0.35) * coarse)
    if rng.random() < 0.3:  # nucleoli, or bright chromocentres
        spots = _smooth_noise(rng, labels.shape, 0.13 * scale) > rng.uniform(1.2, 2.0)
        nuclei[spots] *= rng.choice([rng.uniform(0.2, 0.7), rng.uniform(1.3, 2.0)])
    return np.asarray(nuclei, dtype=np.float32)


def _surroundings(labels: Int32, scale: float, rng: np.random.Generator, settings: NucleiSettings) -> Float32:
    """Everything that shines and is no nucleus."""
    base = rng.uniform(*settings.background)
    around = np.full(labels.shape, base, dtype=np.float32)
    around *= np.maximum(
        0.1, 1 + rng.uniform(0, 0.5) * _smooth_noise(rng, labels.shape, rng.uniform(0.7, 2.0) * scale)
    )
    if rng.random() < settings.structure:
        around *= _cells(rng, labels.shape, rng.uniform(1.0, 2.2) * scale)
    if rng.random() < 0.4:
        around += _ghosts(rng, labels.shape, scale)
    if rng.random() < settings.streaks:
        around += _streaks(rng, labels.shape, scale)
    around[labels > 0] *= rng.uniform(0.0, 1.0)
    return around


def _cells(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> Float32:
    """Cell bodies of uneven brightness, some of them dark: a Voronoi tessellation around random points."""
    from scipy import ndimage
    from scipy.spatial import cKDTree

    count = max(2, int(np.prod(np.array(shape) + size) / size**3))
    seeds = rng.uniform(-size / 2, np.array(shape) + size / 2, (count, 3))
    coarse = np.indices([-(-n // 2) for n in shape]).reshape(3, -1).T * 2 + 0.5
    cell = cKDTree(seeds).query(coarse + 0.1 * size * rng.standard_normal(3))[1]
    brightness = np.exp(rng.uniform(0.1, 0.6) * rng.standard_normal(count))
    brightness[rng.random(count) < 0.25] *= rng.uniform(0.0, 0.5)
    field = brightness[cell].reshape([-(-n // 2) for n in shape]).astype(np.float32)
    field = ndimage.gaussian_filter(field, rng.uniform(0.3, 0.8))
    fine = field.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(0, n) for n in shape)]
    return np.asarray(fine, dtype=np.float32)


def _ghosts(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Float32:
    """Faint round spots far out of focus, which are not to be found."""
    from scipy import ndimage

    spots = np.zeros(shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 1 + max(2, int(0.15 * np.prod(shape) / scale**3))))):
        spots[tuple(int(rng.integers(n)) for n in shape)] = rng.uniform(0.3, 1.0)
    sigma = scale * rng.uniform(0.35, 0.6)
    spots = ndimage.gaussian_filter(spots, (1.7 * sigma, sigma, sigma), mode="constant", truncate=2.5)
    spots *= (2 * np.pi) ** 1.5 * 1.7 * sigma**3
    return np.asarray(rng.uniform(0.05, 0.3) * spots, dtype=np.float32)


def _streaks(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Float32:
    """Bright fibres, walls and dirt, which are no nuclei."""
    grid = np.stack(
        np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij", sparse=False)
    )
    field = np.zeros(shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 5))):
        start = rng.uniform(0, 1, 3) * shape
        way = rng.standard_normal(3)
        way[0] *= 0.4
        way /= np.linalg.norm(way)
        offset = grid - start.astype(np.float32)[:, None, None, None]
        along = np.tensordot(way.astype(np.float32), offset, 1)
        if rng.random() < 0.35:  # a wall
            away = np.abs(along)
            inside = np.square(offset).sum(0) < (scale * rng.uniform(0.8, 3.0)) ** 2
        else:
            away = np.sqrt(np.maximum(np.square(offset).sum(0) - along**2, 0))
            inside = np.abs(along) < scale * rng.uniform(0.3, 3.0)
        shape_of = np.exp(-0.5 * (away / (scale * rng.uniform(0.03, 0.12))) ** 2) * inside
        field = np.maximum(field, np.float32(rng.uniform(0.4, 4.0)) * shape_of)
    return np.asarray(field, dtype=np.float32)


def _shading(rng: np.random.Generator, shape: tuple[int, ...]) -> Float32:
    """Loss of light with depth, and uneven lighting."""
    depth = np.exp(-rng.uniform(0.0, 1.2) * np.linspace(0, 1, shape[0]))[:: rng.choice([-1, 1])]
    slope = 1 + rng.uniform(-0.4, 0.4) * np.linspace(-1, 1, shape[1])[:, None]
    other = 1 + rng.uniform(-0.4, 0.4) * np.linspace(-1, 1, shape[2])
    return np.asarray(depth[:, None, None] * (slope * other), dtype=np.float32)


def _slices(image: Float32, step: float) -> Float32:
    """Slices `step` voxels apart along the first axis, by linear interpolation."""
    if step == 1.0:
        return image
    places = np.arange(0, image.shape[0] - 1 + 1e-6, step)
    return _interpolated(image, places)


def _between_slices(slices: Float32, step: float, size: int) -> Float32:
    """The isotropic grid again, by linear interpolation; beyond the last slice its values go on."""
    if step == 1.0:
        return slices
    return _interpolated(slices, np.minimum(np.arange(size) / step, len(slices) - 1))


def _interpolated(image: Float32, places: npt.NDArray[np.float64]) -> Float32:
    low = np.minimum(places.astype(int), len(image) - 1)
    high = np.minimum(low + 1, len(image) - 1)
    part = (places - low).astype(np.float32)[:, None, None]
    return np.asarray(image[low] * (1 - part) + image[high] * part, dtype=np.float32)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Float32:
    """Gaussian noise of a length scale, mean 0 and standard deviation 1.

    A coarse one is made on a coarse grid and interpolated, which is many times cheaper.
    """
    from scipy import ndimage

    factor = max(1, int(sigma / 1.5))
    small = [-(-n // factor) + 2 for n in shape]
    field = ndimage.gaussian_filter(
        rng.standard_normal(small, dtype=np.float32), sigma / factor, truncate=2.5
    )
    field /= max(float(field.std()), 1e-6)
    if factor > 1:
        for axis, n in enumerate(shape):
            field = np.moveaxis(_interpolated(np.moveaxis(field, axis, 0), np.arange(n) / factor), 0, axis)
    else:
        field = field[: shape[0], : shape[1], : shape[2]]
    return np.ascontiguousarray(field)


def _mean_diameter(labels: Int32) -> float:
    """Diameter of the ball with the objects' mean volume."""
    sizes = np.bincount(labels.ravel())[1:]
    sizes = sizes[sizes > 0]
    return float((6 / np.pi * sizes.mean()) ** (1 / 3)) if len(sizes) else 12.0


def _log_even(rng: np.random.Generator, ends: Range) -> float:
    return float(np.exp(rng.uniform(np.log(ends[0]), np.log(ends[1]))))
