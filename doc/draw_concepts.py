"""Draw the diagrams of the pages on concepts and architecture into doc/images.

They are schematic: their streamlines are curves that were not tracked.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
import matplotlib.pyplot as plt
import numpy as np

RED, BLUE, ORANGE, GREY = "#C0392B", "#1F78B4", "#E98300", "#8C8C8C"
INK, PALE = "#222222", "#E8E8E8"
PHASES = {"forward": BLUE, "warm-up": ORANGE, "backward": RED}


def arrow(axes, start, end, color=INK, **style):
    """Draw an arrow between two points."""
    style = {"arrowstyle": "-|>", "mutation_scale": 12, "linewidth": 1.6} | style
    axes.add_patch(
        FancyArrowPatch(start, end, color=color, shrinkA=0, shrinkB=0, **style)
    )


def hide_axes(axes, title=""):
    """Hide the axes of a drawing, and make their scales equal."""
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(title, fontsize=11, color=INK)


def draw_spaces():
    """Draw a voxel grid in scanner space, and what is sampled along one of its axes."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 3.6), width_ratios=(1, 1.25), layout="constrained"
    )
    turn = np.deg2rad(20)
    sizes = np.array([2.0, 3.0])
    axes = np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    origin = np.array([9.5, 2.2])

    def to_mm(points):
        return origin + (np.asarray(points, float) * sizes) @ axes.T

    for i in range(5):
        for j in range(3):
            corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
            left.add_patch(
                Polygon(to_mm(corners + [i, j]), facecolor="none", edgecolor=GREY)
            )
            left.plot(*to_mm([i, j]), ".", color=GREY, markersize=5)
    arrow(left, to_mm([0, 0]), to_mm([2, 0]), BLUE)
    arrow(left, to_mm([0, 0]), to_mm([0, 1.2]), BLUE)
    left.text(*to_mm([2.3, -0.35]), "i", color=BLUE, fontsize=13, style="italic")
    left.text(*to_mm([0.35, 1.2]), "j", color=BLUE, fontsize=13, style="italic")
    left.annotate(
        "voxel (0, 0) is centred\non coordinate (0, 0)",
        to_mm([0, 0]),
        xytext=(11.6, -0.6),
        fontsize=8.5,
        arrowprops={"arrowstyle": "-", "color": GREY},
    )
    arrow(left, (-2.5, -1.5), (1.0, -1.5))
    arrow(left, (-2.5, -1.5), (-2.5, 2.0))
    left.text(1.2, -1.7, "right (mm)", fontsize=9)
    left.text(-3.2, 2.3, "front (mm)", fontsize=9)
    left.set(xlim=(-4, 17.5), ylim=(-2.5, 13))
    hide_axes(left, "Voxel axes (blue) in scanner space (RAS+)")

    values = np.array([0.35, 0.9, 0.6, 0.75])
    x = np.linspace(-1.2, 4.2, 1000)
    inside = (x >= -0.5) & (x < 3.5)
    sampled = np.interp(np.clip(x, 0, 3), np.arange(4), values)
    right.bar(np.arange(4), values, 1.0, color=PALE, edgecolor="white")
    right.plot(x[inside], sampled[inside], color=BLUE, linewidth=2)
    right.plot(np.arange(4), values, "o", color=BLUE)
    for low, high in ((-1.2, -0.5), (3.5, 4.2)):
        right.axvspan(low, high, color="#F6DAD6")
        right.text(
            (low + high) / 2, 0.5, "outside", rotation=90, ha="center", color=RED
        )
    right.set(
        xlim=(-1.2, 4.2),
        ylim=(0, 1.15),
        xticks=[-0.5, 0, 1, 2, 3, 3.5],
        xticklabels=["-0.5", "0", "1", "2", "3", "n - 0.5"],
        yticks=[],
        xlabel="coordinate along an axis of n = 4 voxels",
    )
    for x in (-0.25, 3.25):
        right.text(x, 1.05, "constant", ha="center", fontsize=8.5)
    right.text(1.5, 1.05, "interpolated", ha="center", fontsize=8.5)
    right.spines[["top", "left", "right"]].set_visible(False)
    right.set_title("Sampled value", fontsize=11, color=INK)
    return figure


def lobes(peaks_deg, weights):
    """Return the outline (N, 2) of an fODF with lobes in a plane."""
    angle = np.linspace(0, 2 * np.pi, 400)
    radius = 0.08 + sum(
        weight * np.cos(angle - np.deg2rad(peak)) ** 14
        for peak, weight in zip(peaks_deg, weights)
    )
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def draw_frame():
    """Draw fODFs along a bend, in voxel axes and in the moving frame."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 3.4), width_ratios=(1.5, 1), layout="constrained"
    )
    t = np.linspace(np.deg2rad(172), np.deg2rad(20), 200)
    curve = np.stack([5.5 * np.cos(t), 4.0 * np.sin(t)], axis=1)
    left.plot(*curve.T, color=GREY, linewidth=1.2)
    places = (18, 78, 135, 186)
    turned = []
    for place in places:
        tangent = curve[place + 1] - curve[place - 1]
        tangent /= np.linalg.norm(tangent)
        ahead_deg = np.rad2deg(np.arctan2(tangent[1], tangent[0]))
        glyph = lobes((ahead_deg - 5, 40), (1.0, 0.55))
        left.fill(*(curve[place] + glyph).T, color="#BBD7EC", edgecolor=BLUE, lw=0.8)
        normal = np.array([-tangent[1], tangent[0]])
        arrow(left, curve[place], curve[place] + 1.5 * tangent, RED)
        arrow(left, curve[place], curve[place] + 0.9 * normal, INK, linewidth=1.1)
        turned.append(glyph @ np.stack([-normal, tangent], axis=1))
    left.text(-2.4, 1.6, "e3: direction of the last step", color=RED, fontsize=9)
    left.text(-2.4, 0.9, "e1, e2: perpendicular to it", fontsize=9)
    left.set(xlim=(-7.2, 7.2), ylim=(-0.6, 6.0))
    hide_axes(left, "A streamline with its moving frame, fODFs in voxel axes")
    for i, glyph in enumerate(turned):
        middle = np.array([2.6 * i, 0])
        right.fill(*(middle + glyph).T, color="#BBD7EC", edgecolor=BLUE, lw=0.8)
        arrow(right, middle, middle + [0, 1.5], RED)
        arrow(right, middle, middle + [-0.9, 0], INK, linewidth=1.1)
    right.set(xlim=(-1.5, 9.3), ylim=(-2.2, 2.4))
    hide_axes(right, "Input of the network:\ne3 always points up")
    return figure


def draw_halves():
    """Draw the three passes over a streamline, and the hidden state in each."""
    figure, panels = plt.subplots(1, 3, figsize=(10, 2.7), layout="constrained")
    s = np.linspace(-1, 1, 41)
    line = np.stack([4.2 * s, 1.2 * np.sin(1.6 * s) + 0.5 * s**2], axis=1)
    seed = 18
    texts = {
        "forward": "1  forward from the seed,\nhidden state starts at zero",
        "warm-up": "2  warm-up: same points in\nreverse, directions not used",
        "backward": "3  backward from the seed,\nwith this hidden state",
    }
    for axes, (phase, title) in zip(panels, texts.items()):
        color = PHASES[phase]
        forward, backward = line[seed:], line[: seed + 1]
        if phase == "forward":
            path = forward
        elif phase == "warm-up":
            path = forward[::-1]
        else:
            axes.plot(*forward.T, color=GREY, linewidth=1.5)
            path = backward[::-1]
        axes.plot(*path.T, color=color, linewidth=2, alpha=0.5)
        arrow(axes, path[-3], path[-1], color)
        # The hidden state is empty at first; the backward half has that of the warm-up.
        start = 0.5 if phase == "backward" else 0.0
        for step, point in enumerate(path[::4]):
            filled = min(1.0, start + step * 4 / len(line))
            for row in range(4):
                axes.add_patch(
                    Rectangle(
                        point + [-0.16, 0.45 + 0.2 * row],
                        0.32,
                        0.18,
                        facecolor=color if filled > row / 4 + 0.02 else "white",
                        edgecolor=color,
                        linewidth=0.7,
                    )
                )
        axes.plot(*line[seed], "o", color=INK, markersize=6, zorder=5)
        axes.annotate("seed", line[seed] - [0.45, 0.8], fontsize=9)
        axes.set(xlim=(-4.8, 4.8), ylim=(-1.6, 3.2))
        hide_axes(axes, title)
    figure.supxlabel(
        "Boxes: hidden state. More filled boxes: information from more points.",
        fontsize=9,
    )
    return figure


def draw_engine():
    """Draw how streamlines are tracked in slots, and how threads share the slots."""
    rng = np.random.default_rng(4)
    figure, axes = plt.subplots(figsize=(10, 3.8), layout="constrained")
    n_slots, end, seed = 6, 320, 0
    free = np.zeros(n_slots)
    while (slot := int(np.argmin(free))) is not None and free[slot] < end:
        forward, backward = rng.integers(8, 60, 2)
        start = free[slot]
        for phase, length in zip(PHASES, (forward, forward, backward)):
            axes.barh(
                slot,
                length - 1,
                left=start,
                height=0.72,
                color=PHASES[phase],
                label=phase if seed == 0 else None,
            )
            start += length
        axes.text(
            free[slot] + 2, slot, str(seed), va="center", color="white", fontsize=8.5
        )
        free[slot], seed = start, seed + 1
    for step in range(0, end + 1, 64):
        axes.axvline(step, color=INK, linewidth=0.8, linestyle=":")
    axes.axhline(2.5, color="white", linewidth=3)
    axes.axhline(2.5, color=INK, linewidth=0.8)
    axes.set(
        xlim=(0, end),
        ylim=(n_slots - 0.5, -0.5),
        yticks=[1, 4],
        yticklabels=["slots of\nthread 1", "slots of\nthread 2"],
        xticks=range(0, end + 1, 64),
        xlabel="steps (number: seed; dotted line: finished streamlines are returned)",
    )
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=3, frameon=False)
    return figure


BOXES = {  # position of the middle, width, text
    "files": ((1.2, 8.6), 2.0, "files: fODF,\nimages, seeds"),
    "workflows": ((4.6, 8.6), 2.4, "workflows\ncommands"),
    "io": ((13.2, 8.6), 2.6, "io.tractogram\ntractogram files"),
    "sampling": ((1.4, 5.9), 2.4, "sampling.features\nfeature volume"),
    "tracking": ((5.0, 5.9), 2.6, "tracking.tracker\nrnn_tracking"),
    "direction_getter": (
        (9.2, 5.9),
        3.6,
        "tracking.direction_getter\nDIPY's LocalTracking",
    ),
    "evaluation": ((13.2, 5.9), 2.6, "evaluation, report\nmetrics, plots"),
    "engine": ((7.0, 3.6), 3.2, "tracking.engine\nseeds, slots, threads"),
    "stopping": ((11.4, 3.6), 2.4, "stopping\ncriteria, reasons"),
    "predictor": ((4.6, 1.4), 2.8, "tracking.predictor\nnext direction"),
    "model_file": ((8.6, 1.4), 2.6, "model.file\nmodel files"),
    "training": ((13.0, 1.4), 2.6, "training\nnetworks"),
}
FLOW = [
    ("files", "workflows"),
    ("workflows", "sampling"),
    ("workflows", "tracking"),
    ("sampling", "tracking"),
    ("sampling", "predictor"),
    ("tracking", "engine"),
    ("direction_getter", "engine"),
    ("engine", "predictor"),
    ("engine", "stopping"),
    ("model_file", "predictor"),
    ("training", "model_file"),
    ("tracking", "io"),
    ("io", "evaluation"),
]
_HEIGHT = 1.15


def border(name, towards):
    """Return where a line from the middle of a box to a point crosses its border."""
    (x, y), width, _ = BOXES[name]
    dx, dy = towards[0] - x, towards[1] - y
    scale = min(
        width / 2 / abs(dx) if dx else np.inf, _HEIGHT / 2 / abs(dy) if dy else np.inf
    )
    return x + scale * dx, y + scale * dy


def draw_flow():
    """Draw the flow of data between modules."""
    figure, axes = plt.subplots(figsize=(10, 6.4), layout="constrained")
    for name, ((x, y), width, text) in BOXES.items():
        axes.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - _HEIGHT / 2),
                width,
                _HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.15",
                facecolor="#F3F7FA" if name != "files" else "white",
                edgecolor=BLUE if name != "files" else GREY,
            )
        )
        axes.text(x, y, text, ha="center", va="center", fontsize=9, color=INK)
    for one, other in FLOW:
        start = border(one, BOXES[other][0])
        end = border(other, BOXES[one][0])
        arrow(axes, start, end, GREY, linewidth=1.3)
    axes.set(xlim=(-0.1, 14.7), ylim=(0.6, 9.4))
    hide_axes(axes)
    return figure


DIAGRAMS = {
    "concept_spaces.svg": draw_spaces,
    "concept_frame.svg": draw_frame,
    "concept_halves.svg": draw_halves,
    "concept_engine.svg": draw_engine,
    "architecture.svg": draw_flow,
}


def main(folder):
    """Draw all diagrams into a folder."""
    settings = {"svg.fonttype": "path", "svg.hashsalt": "dipy_rnn"}
    with plt.rc_context(settings):
        for name, draw in DIAGRAMS.items():
            figure = draw()
            figure.savefig(folder / name, metadata={"Date": None}, facecolor="white")
            plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out_dir", type=Path, default=Path(__file__).parent / "images"
    )
    main(parser.parse_args().out_dir)
