"""Streamlines by hand, and which regions they enter."""

import numpy as np
import numpy.testing as npt
import pytest

from dipy_rnn import tracking
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.pipeline import Regions, TrackingCounts, track_selected
from dipy_rnn.sampling import fodf_features
from dipy_rnn.stopping import (
    ActStoppingCriterion,
    BinaryStoppingCriterion,
    Sphere,
    StopReason,
)
from dipy_rnn.tracking import FinishedStreamlines, Streamline

END, LEFT, TURN = StopReason.ENDPOINT, StopReason.OUTSIDE_IMAGE, StopReason.NO_DIRECTION
EXCLUDED, ALL = StopReason.EXCLUDE_REGION, StopReason.ALL_INCLUDED


def line_of(first=0, seed=5, last=10, forward_stop=LEFT, backward_stop=LEFT):
    """Return a streamline along x, from x = first to x = last, with steps of 1 mm."""
    points = np.zeros((last - first + 1, 3))
    points[:, 0] = np.arange(first, last + 1)
    return Streamline(
        points,
        *(0, points[seed - first]),
        *(forward_stop, backward_stop),
        n_forward=last - seed + 1,
    )


def at(x):
    """Return a region that contains the point x only."""
    return Sphere((x, 0, 0), 0.1)


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        ([], True),
        ([0], True),
        ([10], True),
        ([5], True),  # the seed
        ([8, 2], True),  # one in each half, in any order
        ([2, 8, 4], True),
        ([11], False),
        ([2, 11], False),
        ([7, 7.5], False),  # between two points
    ],
)
def test_a_streamline_is_included_if_it_enters_all_regions(include, expected):
    line = line_of()
    same, is_included = Regions([at(x) for x in include]).apply(line)
    assert same is line and is_included == expected


def test_the_point_at_which_the_criterion_was_met_counts():
    for region, ends in ((11, (END, LEFT)), (-1, (LEFT, END))):
        for x in (11, -1):
            line = line_of(forward_stop=ends[0], backward_stop=ends[1])
            assert Regions([at(x)]).apply(line)[1] == (x == region)
    # A half may consist of the seed only, as for seeds on the interface.
    line = line_of(seed=0, backward_stop=END)
    assert Regions([at(-1)]).apply(line)[1]
    assert not Regions([at(-1)]).apply(line_of(seed=0))[1]
    # A streamline of a single point has no direction.
    assert not Regions([at(6)]).apply(line_of(5, 5, 5, END, END))[1]


def test_a_unidirectional_streamline_has_no_backward_end():
    line = line_of(seed=0, forward_stop=END, backward_stop=END)
    for x, expected in ((-1, False), (11, True)):
        assert Regions([at(x)]).apply(line, n_ends=1)[1] == expected


@pytest.mark.parametrize(
    ("include", "expected", "ends"),
    [
        ([7], (5, 7), (ALL, ALL)),  # no backward half
        ([9, 7], (5, 9), (ALL, ALL)),
        ([5], (5, 5), (ALL, ALL)),
        ([3], (3, 10), (LEFT, ALL)),
        ([3, 9], (3, 10), (LEFT, ALL)),
        ([0, 10], (0, 10), (LEFT, ALL)),
        ([11], (0, 10), (LEFT, LEFT)),
    ],
)
def test_streamlines_stop_where_they_enter_the_last_include_region(
    include, expected, ends
):
    regions = Regions([at(x) for x in include], stop_at_include=True)
    line, is_included = regions.apply(line_of())
    npt.assert_array_equal(
        line.points_mm[:, 0], np.arange(expected[0], expected[1] + 1)
    )
    assert (line.forward_stop, line.backward_stop) == ends
    assert is_included == (include != [11])
    npt.assert_array_equal(line.forward_half[0], [5, 0, 0])
    npt.assert_array_equal(line.backward_half[0], [5, 0, 0])


def test_what_follows_the_last_include_region_does_not_count():
    regions = Regions([at(7)], stop_at_include=True)
    line, _ = regions.apply(line_of(forward_stop=EXCLUDED, backward_stop=TURN))
    assert line.has_valid_ends and len(line.points_mm) == 3
    # The criterion was met in the region: all points are kept.
    line, _ = Regions([at(11)], stop_at_include=True).apply(line_of(forward_stop=END))
    assert line.points_mm[:, 0].tolist() == [5, 6, 7, 8, 9, 10]
    assert line.forward_stop == ALL


def test_a_seed_in_an_exclude_region_excludes_its_streamline():
    regions = Regions([at(7)], [at(5)], stop_at_include=True)
    line, is_included = regions.apply(line_of())
    assert (line.forward_stop, line.backward_stop) == (EXCLUDED, EXCLUDED)
    assert not is_included and len(line.points_mm) == 11


def test_stop_at_include_needs_include_regions():
    with pytest.raises(ValueError, match="stop_at_include needs include regions"):
        Regions(exclude=[at(1)], stop_at_include=True)


@pytest.mark.parametrize("n_ends", [1, 2])
@pytest.mark.parametrize("stop_at_include", [False, True])
def test_regions_apply_to_a_block_as_to_each_of_its_streamlines(
    stop_at_include, n_ends
):
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(300):
        first = rng.integers(10)
        last = first + rng.integers(10)
        seed = first if n_ends == 1 else rng.integers(first, last + 1)
        stops = (END, LEFT, TURN, EXCLUDED)
        lines.append(
            line_of(first, seed, last, stops[rng.integers(4)], stops[rng.integers(4)])
        )
    regions = Regions([at(7), at(4)], [at(2)], stop_at_include)
    one_by_one = [regions.apply(line, n_ends) for line in lines]
    whole = FinishedStreamlines.joined(map(FinishedStreamlines.of, lines))
    seeds_mm = np.array([line.seed_mm for line in lines])
    together, is_included = regions.apply_to_all(whole, seeds_mm, n_ends)
    expected = FinishedStreamlines.joined(
        FinishedStreamlines.of(line) for line, _ in one_by_one
    )
    for name in FinishedStreamlines.__dataclass_fields__:
        npt.assert_array_equal(getattr(together, name), getattr(expected, name))
    npt.assert_array_equal(is_included, [included for _, included in one_by_one])
    assert 0 < np.count_nonzero(is_included) < 300


# The bundles of a phantom: one along x and one along y, which cross at 0.


def track(seeds, regions, criterion=None, **options):
    phantom = crossing_phantom(90, shape=(20, 20, 10))
    counts = TrackingCounts(1.0)
    lines = track_selected(
        [np.array(seeds, float)],
        criterion or BinaryStoppingCriterion(phantom.mask()),
        phantom.affine,
        counts,
        features=fodf_features(phantom.fodf()),
        regions=regions,
        **{"min_len": 0, "max_len": 500, "step_size": 1.0} | options,
    )
    return list(lines), counts


SEEDS = [[-9.3, 0, 0], [-9.3, 1, 0], [0, -9.3, 0], [0, 9.3, 0]]


def test_regions_select_and_are_counted():
    every, _ = track(SEEDS, None)
    assert len(every) == 4
    regions = Regions([Sphere((9, 1, 0), 0.8)], [Sphere((0, -14, 0), 3)])
    lines, counts = track(SEEDS, regions)
    assert [line.seed_index for line in lines] == [1]
    npt.assert_array_equal(lines[0].points_mm, every[1].points_mm)
    assert (counts.seeds, counts.streamlines, counts.ends.total()) == (4, 1, 4)
    table = counts.table(by_streamline=False).splitlines()
    # Both bundles along y enter the exclude region, with one half each.
    assert table[-3:] == [
        " 25.0 %         2  it entered an exclude region",
        "rejected  50.0 %         2  it entered an exclude region",
        "rejected  25.0 %         1  it did not enter all include regions",
    ]
    table = counts.table(by_streamline=True).splitlines()
    assert table == [
        "kept      25.0 %         1  both ends are valid",
        "rejected  50.0 %         2  it entered an exclude region",
        "rejected  25.0 %         1  it did not enter all include regions",
    ]
    both = counts + counts
    assert both.not_included.total() == 2 * counts.not_included.total() > 0


def test_a_streamline_ends_before_the_first_point_in_an_exclude_region():
    phantom = crossing_phantom(90, shape=(20, 20, 10))
    regions = Regions(exclude=[Sphere((6, 0, 0), 2)])
    (line,) = tracking.track(
        SEEDS[:1],
        regions.wrap(BinaryStoppingCriterion(phantom.mask()), phantom.affine),
        phantom.affine,
        features=fodf_features(phantom.fodf()),
        step_size=1.0,
    )
    # The seed is at -9.3 mm and the region begins at 4 mm.
    assert line.points_mm[:, 0].max() == pytest.approx(3.7, abs=0.01)
    assert EXCLUDED in (line.forward_stop, line.backward_stop)


def test_stop_at_include_counts_towards_the_length():
    regions = Regions([Sphere((9, 0, 0), 1)], stop_at_include=True)
    lines, _ = track(SEEDS[:1], regions)
    (line,) = lines
    assert line.points_mm[:, 0].max() == pytest.approx(8.7, abs=0.01)
    n = len(line.points_mm) - 1
    assert len(track(SEEDS[:1], regions, min_len=n)[0]) == 1
    # Lengths are counted in points.
    assert not track(SEEDS[:1], regions, min_len=n + 2)[0]


def test_select_counts_the_streamlines_in_regions_only():
    regions = Regions([Sphere((0, 9, 0), 3)])
    lines, counts = track(SEEDS, regions, select=1)
    assert [line.seed_index for line in lines] == [2]
    assert counts.seeds == 3


def test_a_region_of_grey_matter_is_entered_with_act():
    phantom = crossing_phantom(90, shape=(20, 20, 10))
    gm = np.zeros(phantom.shape)
    gm[:2] = gm[15:] = 1  # above a half up to x = -16 mm, and from 10 mm on
    act = ActStoppingCriterion(gm, 0 * gm)
    cortex = Regions([Sphere((10.5, 0, 0), 0.5)])
    seeds = [[-8.7, 0, 0]]
    lines, _ = track(seeds, cortex, act, only_valid_ends=True)
    assert len(lines) == 1 and lines[0].points_mm[:, 0].max() < 10
    excluded, counts = track(seeds, Regions(exclude=cortex.include), act)
    assert not excluded and any(EXCLUDED in ends for ends in counts.ends)
