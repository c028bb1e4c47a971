"""Plots: positions and colours of what is drawn, on any grid of the image."""

from io import BytesIO
import subprocess
import sys

import numpy as np
import pytest
from worlds import OBLIQUE_ROTATION, affine_of

from dipy_rnn import report, spatial
from dipy_rnn.report import plots

SHAPE = (40, 40, 40)
# Bright balls in the planes of the streamline below. They relate pixels to mm.
MARKS_MM = {
    "sagittal": [[20.0, 6, 8], [20, 32, 34]],
    "coronal": [[6.0, 12, 8], [32, 12, 36]],
    "axial": [[6.0, 5, 25], [32, 33, 25]],
}
RADIUS_MM = 3.0
ALONG_X = np.stack([np.linspace(10, 30, 41), np.full(41, 12.0), np.full(41, 25.0)], 1)


def grids():
    """Return grids over 0 to 40 mm: straight, flipped, oblique and anisotropic."""
    oblique = affine_of((1.0, 1.3, 0.8), OBLIQUE_ROTATION)
    shape = (76, 60, 92)
    middle = spatial.to_mm((np.array(shape) - 1) / 2, oblique)
    oblique[:3, 3] += 19.5 - middle
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 39
    return {
        "straight": (np.eye(4), SHAPE),
        "flipped": (flipped, SHAPE),
        "oblique": (oblique, shape),
    }


def marked_image(affine, shape):
    points_mm = spatial.to_mm(np.moveaxis(np.indices(shape), 0, -1), affine)
    centres_mm = np.concatenate(list(MARKS_MM.values()))
    distances_mm = [np.linalg.norm(points_mm - c, axis=-1) for c in centres_mm]
    return np.clip(RADIUS_MM + 1 - np.min(distances_mm, axis=0), 0, 1)


def pixels(figure):
    """Return the pixels of a figure: rows from the top, colours of 0 to 255."""
    from matplotlib.image import imread

    return np.rint(255 * imread(BytesIO(report.png(figure)))[..., :3]).astype(int)


def panels(figure):
    """Return the pixels of each panel."""
    picture = pixels(figure)
    height, width = picture.shape[:2]
    cut = []
    for axes in figure.axes:
        (x0, y0), (x1, y1) = axes.get_position().get_points()
        rows = slice(round(height * (1 - y1)), round(height * (1 - y0)))
        cut.append(picture[rows, round(width * x0) : round(width * x1)])
    return cut


def red(picture):
    return (picture[..., 0] > 180) & (picture[..., 1:].max(axis=-1) < 70)


def white(picture):
    return picture.min(axis=-1) > 245  # text is darker


def mm_of_pixels(panel, marks_mm):
    """Return a function from (column, row) to (right, up) in mm, by two marks."""
    from scipy.ndimage import center_of_mass, label

    spots, _ = label(white(panel))
    largest = np.argsort(np.bincount(spots.ravel())[1:])[-2:] + 1
    rows, columns = np.transpose(center_of_mass(spots > 0, spots, largest))
    places = np.stack([columns, rows], axis=1)
    if places[0, 0] > places[1, 0]:
        places = places[::-1]
    marks_mm = np.asarray(marks_mm)
    scale = (marks_mm[1] - marks_mm[0]) / (places[1] - places[0])
    return lambda where: marks_mm[0] + (where - places[0]) * scale


@pytest.mark.parametrize("grid", grids())
def test_a_streamline_along_x_is_red_and_at_the_right_position(grid):
    affine, shape = grids()[grid]
    image = marked_image(affine, shape)
    drawn = panels(report.draw_tractograms({"": [ALONG_X]}, image, affine))
    for panel, (name, (right, up)) in zip(
        drawn, {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}.items()
    ):
        to_mm = mm_of_pixels(panel, np.array(MARKS_MM[name])[:, [right, up]])
        rows, columns = np.nonzero(red(panel))
        if name == "sagittal":  # perpendicular to the streamline
            assert len(rows) < 20
            continue
        ends = to_mm(np.array([[columns.min(), rows.mean()], [columns.max(), 0]]))
        assert ends[0, 0] == pytest.approx(10, abs=0.7)
        assert ends[1, 0] == pytest.approx(30, abs=0.7)
        assert ends[0, 1] == pytest.approx(ALONG_X[0, up], abs=0.7)


def test_an_image_stored_from_right_to_left_gives_the_same_plot():
    (straight, _), (flipped, _) = grids()["straight"], grids()["flipped"]
    image = marked_image(straight, SHAPE)
    image[:8] += 0.3  # left and right differ
    one = pixels(report.draw_tractograms({"": [ALONG_X]}, image, straight))
    other = pixels(report.draw_tractograms({"": [ALONG_X]}, image[::-1], flipped))
    wrong = pixels(report.draw_tractograms({"": [ALONG_X]}, image[::-1], straight))
    assert np.abs(one - other).mean() < 0.05
    assert np.abs(one - wrong).mean() > 1


def test_left_is_drawn_on_the_left_and_sides_are_named():
    figure = report.draw_tractograms({"": [ALONG_X]}, np.ones(SHAPE), np.eye(4))
    for axes, letters in zip(figure.axes, ("PAIS", "LRIS", "LRPA")):
        place = {text.get_text(): text.get_position() for text in axes.texts}
        assert place[letters[0]][0] < 0.1 and place[letters[1]][0] > 0.9
        assert place[letters[2]][1] < 0.1 and place[letters[3]][1] > 0.9
    assert [axes.texts[-1].get_text() for axes in figure.axes] == [
        "x = 20 mm",
        "y = 12 mm",
        "z = 25 mm",
    ]


def test_streamlines_far_from_the_plane_are_not_drawn():
    far = np.stack([np.full(20, 15.0), np.arange(10.0, 30), np.full(20, 35.0)], 1)
    image = np.zeros(SHAPE)
    for apart_mm, is_drawn in ((0, False), (10, True)):
        lines = [ALONG_X, ALONG_X, far - [0, 0, apart_mm]]
        drawn = report.draw_tractograms({"": lines}, image, np.eye(4))
        axial = panels(drawn)[2]
        green = (axial[..., 1] > 180) & (axial[..., [0, 2]].max(axis=-1) < 70)
        assert green.any() == is_drawn


def test_a_streamline_through_the_plane_is_drawn_3_mm_to_both_sides():
    through = np.stack(
        [np.full(41, 20), np.linspace(9, 29, 41), np.linspace(15, 35, 41)], 1
    )
    figure = report.draw_tractograms(
        {"": [through]}, marked_image(np.eye(4), SHAPE), np.eye(4)
    )
    axial = panels(figure)[2]
    to_mm = mm_of_pixels(axial, np.array(MARKS_MM["axial"])[:, :2])
    rows, columns = np.nonzero(
        (axial[..., 0] < 60) & (axial[..., 1:].min(axis=-1) > 120)
    )
    ends = to_mm(np.array([[columns.mean(), rows.max()], [columns.mean(), rows.min()]]))
    assert ends[:, 0] == pytest.approx(20, abs=0.7)
    assert ends[:, 1] == pytest.approx([16, 22], abs=1.2)


@pytest.mark.parametrize(
    ("streamlines", "title"),
    [
        ([], "0 streamlines"),
        ([np.empty((0, 3))], "0 streamlines"),
        ([np.ones((1, 3))], "1 streamline"),
    ],
)
def test_of_an_empty_tractogram_only_the_image_is_drawn(streamlines, title):
    figure = report.draw_tractograms({"": streamlines}, np.ones((9, 8, 7)), np.eye(4))
    assert figure.texts[0].get_text() == title
    for panel in panels(figure):
        assert white(panel).mean() > 0.1
        assert not red(panel).any()


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, np.nan])
@pytest.mark.parametrize("shape", [(12, 10, 1), (1, 1, 1), (6, 6, 6)])
def test_a_constant_image_is_drawn(value, shape):
    lines = [np.array([[0.0, 0, 0], [3, 0, 0]])]
    image = np.full(shape, value)
    figure = report.draw_tractograms({"": lines}, image, np.eye(4))
    coronal, axial = panels(figure)[1:]
    assert red(coronal).any() and red(axial).any()
    assert white(axial).any() == (value == 5)


def test_wrong_shapes_are_refused(tmp_path):
    for image, affine, message in (
        (np.ones((4, 4)), np.eye(4), r"image has the shape \(4, 4\)"),
        (np.ones((4, 4, 4)), np.eye(3), r"affine has the shape \(3, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            report.save_picture(tmp_path / "a.png", [], image, affine)
    assert not list(tmp_path.iterdir())


def test_a_picture_is_saved_completely_or_not_at_all(tmp_path):
    report.save_picture(tmp_path / "a.png", [ALONG_X], np.ones(SHAPE), np.eye(4))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        report.save_picture(tmp_path / "folder", [ALONG_X], np.ones(SHAPE), np.eye(4))
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "folder"}


def test_the_title_has_the_numbers_of_streamlines_and_of_those_drawn(monkeypatch):
    monkeypatch.setattr(plots, "N_DRAWN", 2)
    for lines, title in (
        ([ALONG_X, ALONG_X[:0], ALONG_X, ALONG_X], "3 streamlines, 2 of them drawn"),
        ([ALONG_X, ALONG_X[:0], ALONG_X], "2 streamlines"),
    ):
        figure = report.draw_tractograms({"mine": lines}, np.ones(SHAPE), np.eye(4))
        assert figure.texts[0].get_text() == f"mine: {title}"


def test_the_same_streamlines_are_chosen_each_time():
    lines = [ALONG_X + [0, i, 0] for i in range(50)]
    first, second = (report.choose(lines, 7) for _ in range(2))
    assert len(first) == 7 == len({line[0, 1] for line in first})
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one, other)


def test_a_chosen_streamline_stays_close_to_the_original():
    t = np.linspace(0, np.pi, 200)
    arc = 30 * np.stack([np.cos(t), np.sin(t), 0 * t], axis=1)
    (line,) = report.choose([arc], 1)
    assert len(line) < 40
    np.testing.assert_array_equal(line[[0, -1]], arc[[0, -1]].astype(np.float32))
    middles = (line[1:] + line[:-1]) / 2  # where segments are farthest from the arc
    assert np.abs(np.linalg.norm(middles, axis=1) - 30).max() < 0.15


def orange(picture):
    return (picture[..., 0] > 150) & (picture[..., 2] < 60)


def blue(picture):
    return (picture[..., 2] > 110) & (picture[..., 0] < 60)


class TwoBundles:
    """Bundles along x at y = 10 and y = 30; the candidate has more in the first."""

    image, affine = np.full(SHAPE, 0.01), np.eye(4)
    image[0, 0, 0] = 1
    low = ALONG_X * [1, 0, 1] + [0, 10, 0]
    high = low + [0, 20, 0]
    candidate, reference = [low, low, low, high], [low, high, high, high]

    @classmethod
    def difference(cls):
        return report.Difference(cls.candidate, cls.reference, cls.image, cls.affine)


def test_densities_and_their_difference_count_streamlines():
    maps = TwoBundles.difference()
    assert maps.densities["candidate"][20, 10, 25] == 750
    assert maps.densities["reference"][20, 10, 25] == 250
    assert maps.difference[20, 10, 25] == 500 == -maps.difference[20, 30, 25]
    assert maps.difference[20, 20, 25] == 0


def test_seeds_without_a_streamline_count_in_densities():
    line, nothing = ALONG_X, ALONG_X[:0]
    maps = report.Difference([line, nothing], [line, line], np.ones(SHAPE), np.eye(4))
    assert maps.densities["candidate"][20, 12, 25] == 500
    assert maps.densities["reference"][20, 12, 25] == 1000
    assert maps.sign == -1


def test_the_point_is_where_the_difference_is_largest():
    maps = report.Difference(
        [TwoBundles.low, TwoBundles.high], [TwoBundles.high], np.ones(SHAPE), np.eye(4)
    )
    assert maps.sign == 1
    assert maps.point_mm[1:].tolist() == [10, 25]
    assert 10 <= maps.point_mm[0] <= 30


def test_equal_tractograms_have_no_difference():
    lines = [ALONG_X, ALONG_X + [0, 3, 0]]
    maps = report.Difference(lines, lines[::-1], np.ones(SHAPE), np.eye(4))
    assert maps.sign == 0
    assert not maps.difference.any()
    picture = pixels(maps.draw_map())
    assert not orange(picture).any() and not blue(picture).any()


def test_the_difference_is_orange_for_the_candidate_and_blue_for_the_reference():
    picture = pixels(TwoBundles.difference().draw_map())  # axial: front is up
    rows = np.arange(len(picture))[:, None]
    low, high = (
        np.mean(np.broadcast_to(rows, c.shape)[c])
        for c in (orange(picture), blue(picture))
    )
    assert low > len(picture) / 2 > high
    size = orange(picture).sum() / blue(picture).sum()
    assert size == pytest.approx(1, abs=0.2)


def test_the_plot_of_densities_names_both_tractograms():
    labels = {"candidate": "price $5 and $6", "reference": "theirs"}
    figure = TwoBundles.difference().draw(labels)
    texts = [text.get_text() for text in figure.texts]
    assert texts[0] == r"Density: price \$5 and \$6"
    assert texts[1] == "Density: theirs"
    assert len(figure.axes) == 12  # three rows of three panels and a colour bar
    assert orange(pixels(figure)).any() and blue(pixels(figure)).any()


LABELS = {"candidate": "mine", "reference": "theirs", "yardstick": "again"}


def steps(figure):
    """Return (edges, heights) of each histogram in a figure."""
    return {
        patch.get_label(): (patch.get_data().edges, patch.get_data().values)
        for patch in figure.axes[0].patches
    }


def test_the_histogram_of_distances_leaves_out_pairs_of_missing_streamlines():
    distances = {
        "candidate": np.array([0.0, 3, 3, 50, np.inf, np.nan]),
        "yardstick": np.array([0.0, 0]),
    }
    histograms = steps(report.draw_distances(distances, LABELS))
    edges, heights = histograms["mine"]
    assert heights.sum() == pytest.approx(80)
    assert heights[0] == pytest.approx(20)
    assert heights[(edges[:-1] <= 3) & (edges[1:] > 3)] == pytest.approx(40)
    assert edges[-1] == pytest.approx(50)
    np.testing.assert_array_equal(histograms["again"][0], edges)
    assert histograms["again"][1][0] == 100


def test_shares_within_a_distance_rise_to_the_share_that_has_a_partner():
    distances = {"candidate": np.array([4.0, 1, np.inf, np.nan, 2])}
    (line,) = report.draw_shares_within(distances, LABELS).axes[0].lines
    at_mm, percent = line.get_data()
    for distance, share in ((0.5, 0), (1, 25), (1.5, 25), (2, 50), (9, 75)):
        assert percent[np.flatnonzero(at_mm <= distance)[-1]] == share


def test_lengths_are_measured_along_streamlines():
    bent = np.array([[0.0, 0, 0], [30, 0, 0], [30, 40, 0]])
    figure = report.draw_lengths(
        {"candidate": [bent, bent[:2], bent[:0]], "yardstick": [bent[:2]]}, LABELS
    )
    histograms = steps(figure)
    edges, heights = histograms["mine"]
    assert edges[-1] == 70
    assert heights[-1] == heights[(edges[:-1] <= 30) & (edges[1:] > 30)] == 50
    assert histograms["again"][1].max() == 100


def test_empty_input_gives_empty_plots():
    nothing = np.array([])
    for figure in (
        report.draw_distances({"candidate": nothing}, LABELS),
        report.draw_shares_within({"candidate": nothing}, LABELS),
        report.draw_lengths({"candidate": []}, LABELS),
        report.draw_pairs([], [], nothing, np.ones(SHAPE), np.eye(4)),
    ):
        assert report.png(figure)


def test_the_pairs_that_differ_most_come_first_and_similar_pairs_once():
    low, high = TwoBundles.low, TwoBundles.high
    candidate = [low, low + [0, 1, 0], low, high, high, low[:0]]
    reference = [high, high, low[:3], high, low, low]
    distances = np.array([20.0, 19, 18.5, 0, 21, np.inf])
    figure = report.draw_pairs(
        candidate, reference, distances, TwoBundles.image, TwoBundles.affine
    )
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["21.0 mm", "20.0 mm", "18.5 mm", "0.0 mm"]
    for panel, mine_is_above in zip(panels(figure), (True, False)):
        above, below = np.vsplit(panel[: len(panel) // 2 * 2], 2)
        for part, mine in ((above, mine_is_above), (below, not mine_is_above)):
            assert orange(part).any() == mine
            assert blue(part).any() != mine


def test_a_pair_with_a_streamline_of_one_point_is_drawn():
    figure = report.draw_pairs(
        [ALONG_X[:1], TwoBundles.high],
        [ALONG_X, TwoBundles.high[5:6]],
        np.array([20.0, 15.0]),
        TwoBundles.image,
        TwoBundles.affine,
    )
    assert [text.get_text() for text in figure.texts] == ["20.0 mm", "15.0 mm"]


def test_without_matplotlib_the_import_works_and_drawing_raises_import_error():
    code = """
import sys
sys.modules["matplotlib"] = None
from dipy_rnn import report
from dipy_rnn.report import plots
try:
    report.draw_lengths({}, {})
except ImportError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == (
        "Plots need matplotlib. Install it with: pip install dipy_rnn[viz]\n"
    )


def test_drawing_does_not_import_pyplot():
    code = """
import sys
import numpy as np
from dipy_rnn import report
from dipy_rnn.report import plots
report.png(report.draw_tractograms({"": []}, np.ones((5, 5, 5)), np.eye(4)))
print("matplotlib.pyplot" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "False\n", ran.stderr
