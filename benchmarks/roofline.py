"""Bounds of speed on this machine: ``python benchmarks/roofline.py FOLDER/canon61``.

The folder is the same as for speed.py. It is optional. There are three tables.

* The machine: rates of large float32 matrix products, of the network's products with a
  batch of rows, and of copies of large arrays (bytes read and bytes written).
* One row, on one thread. A row is one prediction for one streamline. The table gives
  operations and nanoseconds of sampling, rotation into the moving frame, the values in
  the cone with the context and the network, first directions of the seeds, and the
  rest. Sampling and rotation are timed alone, on a batch of points on streamlines. The
  cone, the context and the network are what `HiddenStates.predict` takes in addition.
  The rest is what `track` takes in addition to all of these. The bound is the time of
  the operations at the rate of the large product, or of the bytes at the rate of the
  copy, whichever is longer. Sampling can be faster than its bound, as some of its bytes
  are in the caches.
* Rows per second of `track` as a whole, and the bounds, with one thread and with all.
"""

import argparse
from pathlib import Path

import numpy as np
from speed import (
    BATCH_SIZE,
    STEP_MM,
    Case,
    count_rows,
    machine,
    matrices,
    network,
    number,
    print_markdown,
    products,
    rnn_options,
    seconds_of,
    timed,
)
import torch

from dipy_rnn import load_model, sampling, spatial
from dipy_rnn._threads import count_threads
from dipy_rnn.sampling import cone_of
from dipy_rnn.spatial import frames
from dipy_rnn.tracking import TrackingConfig, track
from dipy_rnn.tracking.predictor import Predictor

REST = "cone, context, network"
LARGE = 2048  # rows and columns
N_COPIED = 1 << 26  # floats


def product_rate(shapes, n_rows):
    """Return the operations per second of matrix products."""
    seconds = seconds_of(products(shapes, n_rows))
    return 2 * n_rows * sum(n_out * n_in for n_out, n_in in shapes) / seconds


def copy_rate():
    """Return the bytes per second, read and written, of a large copy."""
    source, target = torch.ones(N_COPIED), torch.zeros(N_COPIED)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source))


def rotation(order):
    """Count float operations of a rotation of coefficients."""
    n = (order + 1) * (order + 2) // 2
    # Three rotations about z: each pair of +m and -m takes four products and two sums.
    pairs = sum(range(2, order + 1, 2))
    # Two quarter turns about x: sparse matrices, a product and a sum for each entry.
    quarter = np.array([[[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]])
    rotated = sampling.rotate(np.eye(n), np.repeat(quarter, n, axis=0))
    entries = np.count_nonzero(np.abs(rotated) > 1e-5)
    return 3 * 6 * pairs + 2 * 2 * entries


def operations(metadata, max_angle, shapes):
    """Count float operations and bytes of a row.

    The bytes are those of the eight voxels around each place. Everything else, also the
    weights, is small enough to stay in the caches.

    Returns
    -------
    counts : dict
        Operations and bytes, by the name of the part.
    """
    order, context = metadata.order, metadata.context
    n = (order + 1) * (order + 2) // 2
    # Eight products and seven sums for each coefficient, then a square, a sum and a
    # division to normalise.
    interpolating = (8 + 7 + 3) * n
    # Values in the cone: a product and a sum for each coefficient and ring, then for
    # each phase factor and vertex of half a ring, then a sum and a difference. Rings
    # beyond the cone are hardly ever needed.
    cone = cone_of(order, max_angle)
    sizes = cone.ring_sizes[: cone.n_needed]
    rest = 2 * n * len(sizes) + sizes[1:].sum() // 2 * (2 * (2 * order + 1) + 2)
    rest += 2 * sum(n_out * n_in for n_out, n_in in shapes)
    n_bytes = 0
    if context:
        # As above at each place, then five Fourier parts over each ring.
        rest += context.n_places * (18 * context.n_coeffs + rotation(context.order))
        rest += 10 * len(context.rings) * context.n_around * context.n_coeffs
        n_bytes = context.n_places * 8 * 4 * context.n_coeffs
    return {
        "sampling": (interpolating, 8 * 4 * n),
        "rotation": (rotation(order), 0),
        REST: (int(rest), n_bytes),
    }


def batch(case, model):
    """Return points in voxel coordinates, one on each streamline, and frames there."""
    rng = np.random.default_rng(0)
    points, tangents = [], []
    seeds = case.jittered(2 * BATCH_SIZE)
    for line in track(seeds, features=case.features, **rnn_options(case, model)):
        if len(line.points_mm) > 1 and len(points) < BATCH_SIZE:
            i = rng.integers(len(line.points_mm) - 1)
            points.append(line.points_mm[i])
            tangents.append(line.points_mm[i + 1] - line.points_mm[i])
    axes = spatial.axes(case.affine)
    tangents = np.array(tangents) @ axes
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    return spatial.to_voxels(points, case.affine), frames.from_tangents(tangents, axes)


def seconds_of_parts(case, model):
    """Return the seconds of the parts.

    Returns
    -------
    sampled, rotated, predicted : float
        For one row: sampling, the same with rotation, and a prediction.
    first_directions : float
        For all seeds.
    """
    loaded = load_model(model)
    points, frame = batch(case, model)
    data, axes = loaded.features(case.features), spatial.axes(case.affine)
    predictor = Predictor(case.features, loaded, axes, 1)
    config = TrackingConfig.of(
        case.affine, step_size=STEP_MM, max_angle=case.max_angle, max_points=100
    )
    states = predictor.states(len(points), config)
    torch.set_num_threads(1)
    calls = (
        lambda: sampling.sample(data, points, normalise=True),
        lambda: sampling.sample(
            data, points, frame, handedness=spatial.handedness(axes), normalise=True
        ),
        lambda: states.predict(points, frame),
    )
    seeds_vox = spatial.to_voxels(case.seeds, case.affine)
    found, _ = timed(lambda: predictor.first_directions(seeds_vox, 1))
    return *(seconds_of(call) / len(points) for call in calls), found


def seconds_of_track(case, model, threads):
    """Return the seconds of the whole tracking, and the number of rows."""
    options = rnn_options(case, model) | {"nbr_threads": threads}

    def call(seeds=case.seeds):
        return list(track(seeds, features=case.features, **options))

    call(case.seeds[:100])
    seconds, lines = timed(call)
    return seconds, count_rows(lines, model)


def main():
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("head", type=Path, nargs="?", help="a simulated scan if absent")
    parser.add_argument("--work", type=Path, default=Path("real_data"))
    parser.add_argument("--model", default="fast", help="name or file")
    parser.add_argument("--n_seeds", type=int, default=5000)
    parser.add_argument("--max_angle", type=float, default=45.0)
    arguments = parser.parse_args()
    print(machine())
    case, model = Case(arguments), arguments.model
    shapes = matrices(network(model))
    counts = sorted({1, count_threads(0)})

    flops, copied, lines = {}, {}, []
    for n in counts:
        torch.set_num_threads(n)
        flops[n], copied[n] = product_rate([(LARGE, LARGE)], LARGE), copy_rate()
        lines.append((f"product {LARGE} x {LARGE} x {LARGE}", n, flops[n], ""))
        for n_out, n_in in sorted(set(shapes)):
            rate = product_rate([(n_out, n_in)], BATCH_SIZE)
            lines.append((f"product {BATCH_SIZE} x {n_in} x {n_out}", n, rate, ""))
        rate = product_rate(shapes, BATCH_SIZE)
        lines.append((f"the {len(shapes)} products of {model}", n, rate, ""))
        lines.append((f"copy of {4 * N_COPIED >> 20} MiB", n, "", copied[n]))
    print_markdown(
        ("", "threads", "GFLOP/s", "GB/s"),
        [(a, b, *(x and number(x / 1e9) for x in rates)) for a, b, *rates in lines],
    )

    sampled, rotated, predicted, found = seconds_of_parts(case, model)
    whole = {}
    for n in counts:
        seconds, n_rows = seconds_of_track(case, model, n)
        whole[n] = seconds / n_rows
    needed = operations(load_model(model).metadata, case.max_angle, shapes)
    needed["all"] = tuple(map(sum, zip(*needed.values())))
    taken = {
        "sampling": sampled,
        "rotation": rotated - sampled,
        REST: predicted - rotated,
        "first directions": found / n_rows,
        "rest": whole[1] - predicted - found / n_rows,
        "all": whole[1],
    }
    lines = []
    for name, seconds in taken.items():
        n_flops, n_bytes = needed.get(name, (0, 0))
        bound = max(n_flops / flops[1], n_bytes / copied[1])
        lines.append(
            (
                name,
                number(n_flops) if n_flops else "",
                number(n_bytes) if n_bytes else "",
                number(1e9 * seconds),
                number(1e9 * bound) if bound else "",
                number(bound / seconds) if bound else "",
            )
        )
    print_markdown(
        ("part", "operations a row", "bytes a row", "ns", "bound, ns", "share"), lines
    )
    lines = []
    for n in counts:
        bound = min(flops[n] / needed["all"][0], copied[n] / needed["all"][1])
        lines.append((n, *map(number, (1 / whole[n], bound, 1 / whole[n] / bound))))
    print_markdown(("threads", "rows/s", "bound, rows/s", "share"), lines)


if __name__ == "__main__":
    main()
