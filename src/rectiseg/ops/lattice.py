"""Gaussian filtering in many dimensions, in time that grows with the number of pixels only.

Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral lattice", Eurographics 2010. Every pixel
is spread over the d + 1 corners of the simplex of the lattice A*_d that it lies in (splat), the lattice's points are
blurred along its d + 1 directions, and every pixel reads its corners again (slice).
"""

import math
from functools import partial

import numpy as np
from jaxtyping import Float32

from rectiseg.ops.kernels import compiled, in_parallel

PixelFeatures = Float32[np.ndarray, "pixels dimensions"]
PixelValues = Float32[np.ndarray, "pixels channels"]


class Lattice:
    """The lattice of pixels with these features, in standard deviations of the Gaussian; built once for all values.

    It has the points that pixels touch themselves, as is usual: further ones, which only blurring would reach, do not
    exist.
    """

    def __init__(self, features: PixelFeatures):
        self.corners, self.weights, self.neighbors = embed(np.ascontiguousarray(features))

    def filtered(self, values: PixelValues) -> PixelValues:
        """Each pixel's sum of all pixels' values, weighted by the Gaussian of their features' distance.

        The weights are right up to a factor that is the same for all pixels.
        """
        directions, points, _ = self.neighbors.shape
        channels = values.shape[1]
        blurred = np.zeros((points + 1, channels), np.float32)  # the last stands for points that do not exist
        in_parallel(partial(splat, values, self.corners, self.weights, blurred), channels)
        other = np.zeros_like(blurred)
        for direction in range(directions):
            in_parallel(partial(blur, blurred, self.neighbors[direction], other), points)
            blurred, other = other, blurred
        result = np.empty_like(values)
        scale = np.float32(1 / (1 + 2.0 ** (1 - directions)))  # blurring by (1/2, 1, 1/2) amplifies
        in_parallel(partial(read, blurred, self.corners, self.weights, scale, result), len(values))
        return result


@compiled()
def embed(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where every pixel lies: its simplex's corners (pixels, d + 1) and their weights, and for every direction
    and point the two neighbours (d + 1, points, 2). A neighbour that does not exist is numbered after all others."""
    pixels, dimensions = features.shape
    side = dimensions + 1
    corners = np.empty((pixels, side), np.int32)
    weights = np.empty((pixels, side), np.float32)
    keys = np.empty((1024, dimensions), np.int32)
    table = np.full(4096, -1, np.int32)
    points = 0
    # Section 3.1 there: an orthogonal basis of the hyperplane, scaled so that blurring has the variance 1.
    scale = np.empty(dimensions)
    for axis in range(dimensions):
        scale[axis] = side * math.sqrt(2 / 3) / math.sqrt((axis + 1) * (axis + 2))
    elevated = np.empty(side)
    nearest = np.empty(side, np.int32)
    rank = np.empty(side, np.int32)
    share = np.empty(side + 1)
    key = np.empty(dimensions, np.int32)
    for pixel in range(pixels):
        total = 0.0
        for axis in range(dimensions, 0, -1):
            coordinate = features[pixel, axis - 1] * scale[axis - 1]
            elevated[axis] = total - axis * coordinate
            total += coordinate
        elevated[0] = total

        # The nearest point whose coordinates are all multiples of d + 1, and how the differences to it are ordered.
        excess = 0
        for axis in range(side):
            multiple = int(np.floor(elevated[axis] / side + 0.5))
            nearest[axis] = multiple * side
            excess += multiple
        rank[:] = 0
        for first in range(dimensions):
            for second in range(first + 1, side):
                if elevated[first] - nearest[first] < elevated[second] - nearest[second]:
                    rank[first] += 1
                else:
                    rank[second] += 1
        for axis in range(side):  # back to the hyperplane: coordinates sum to zero
            rank[axis] += excess
            if rank[axis] < 0:
                rank[axis] += side
                nearest[axis] += side
            elif rank[axis] >= side:
                rank[axis] -= side
                nearest[axis] -= side

        # Barycentric coordinates within the simplex.
        share[:] = 0
        for axis in range(side):
            difference = (elevated[axis] - nearest[axis]) / side
            share[dimensions - rank[axis]] += difference
            share[side - rank[axis]] -= difference
        share[0] += 1 + share[side]

        for corner in range(side):
            for axis in range(dimensions):
                key[axis] = nearest[axis] + corner - (side if rank[axis] > dimensions - corner else 0)
            slot = find(table, keys, key)
            if table[slot] < 0:
                if points == len(keys):
                    keys = np.concatenate((keys, np.empty_like(keys)))
                keys[points] = key
                table[slot] = points
                points += 1
                if 2 * points > len(table):
                    table = np.full(2 * len(table), -1, np.int32)
                    for point in range(points):
                        table[find(table, keys, keys[point])] = point
                    slot = find(table, keys, key)
            corners[pixel, corner] = table[slot]
            weights[pixel, corner] = share[corner]

    neighbors = np.empty((side, points, 2), np.int32)
    for direction in range(side):
        for point in range(points):
            for which in range(2):
                step = 1 - 2 * which
                for axis in range(dimensions):
                    key[axis] = keys[point, axis] - step
                if direction < dimensions:
                    key[direction] = keys[point, direction] + step * dimensions
                found = table[find(table, keys, key)]
                neighbors[direction, point, which] = found if found >= 0 else points
    return corners, weights, neighbors


@compiled()
def find(table: np.ndarray, keys: np.ndarray, key: np.ndarray) -> np.uint64:
    """The slot of the hash table that holds the key's point, or the empty one where it belongs."""
    mask = np.uint64(len(table) - 1)
    code = np.uint64(0)
    for value in key:
        code = (code + np.uint64(np.int64(value))) * np.uint64(0x9E3779B97F4A7C15)
        code ^= code >> np.uint64(29)
    slot = code & mask
    while table[slot] >= 0:
        same = True
        for axis in range(len(key)):
            same &= keys[table[slot], axis] == key[axis]
        if same:
            break
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled("contract")
def splat(
    values: np.ndarray, corners: np.ndarray, weights: np.ndarray, points: np.ndarray, first: int, last: int
) -> None:
    for pixel in range(values.shape[0]):
        for corner in range(corners.shape[1]):
            point, weight = corners[pixel, corner], weights[pixel, corner]
            for channel in range(first, last):
                points[point, channel] += weight * values[pixel, channel]


@compiled("contract")
def blur(points: np.ndarray, neighbors: np.ndarray, result: np.ndarray, first: int, last: int) -> None:
    for point in range(first, last):
        before, after = neighbors[point, 0], neighbors[point, 1]
        for channel in range(points.shape[1]):
            result[point, channel] = points[point, channel] + np.float32(0.5) * (
                points[before, channel] + points[after, channel]
            )


@compiled("contract")
def read(
    points: np.ndarray,
    corners: np.ndarray,
    weights: np.ndarray,
    scale: float,
    result: np.ndarray,
    first: int,
    last: int,
) -> None:
    for pixel in range(first, last):
        result[pixel] = 0
        for corner in range(corners.shape[1]):
            point, weight = corners[pixel, corner], scale * weights[pixel, corner]
            for channel in range(points.shape[1]):
                result[pixel, channel] += weight * points[point, channel]
