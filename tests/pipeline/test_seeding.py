"""Seeds in masks of a few voxels, with counts found by hand."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pytest
from worlds import affine_of

from dipy_rnn.io import load_points
from dipy_rnn.pipeline import Seeding, seeding, slice_batches
from dipy_rnn.stopping import Tissues

# Voxels of 2 x 3 x 5 mm, or 30 mm3.
AFFINE = affine_of((2.0, 3.0, 5.0))


def mask_of(n_voxels, shape=(6, 5, 4)):
    mask = np.zeros(shape)
    mask.reshape(-1)[:n_voxels] = 1
    return mask


def place(mask, tissues=None, **options):
    n_seeds, batches = Seeding(**options).place(mask, AFFINE, "mask.nii.gz", tissues)
    batches = list(batches)
    assert sum(map(len, batches)) == n_seeds
    return batches


def voxels(seeds):
    moved = (seeds - AFFINE[:3, 3]) @ np.linalg.inv(AFFINE[:3, :3]).T
    return np.rint(moved).astype(int)


@pytest.mark.parametrize(
    ("options", "n_seeds"),
    [
        ({}, 7),
        ({"seed_density": 2}, 7 * 8),
        ({"seed_count": 11}, 11),
        ({"seeds_per_voxel": 3}, 21),
        ({"seeds_per_mm3": 0.1}, 21),  # 7 voxels of 30 mm3
    ],
)
def test_each_option_places_its_number_of_seeds(options, n_seeds):
    mask = mask_of(7)
    (seeds,) = place(mask, **options)
    assert seeds.shape == (n_seeds, 3)
    assert mask[tuple(voxels(seeds).T)].all()


def test_seeds_per_voxel_are_the_same_number_in_each():
    (seeds,) = place(mask_of(7), seeds_per_voxel=3)
    _, counts = np.unique(voxels(seeds), axis=0, return_counts=True)
    assert counts.tolist() == [3] * 7


def test_random_seeds_depend_only_on_random_seed():
    def seeds(random_seed):
        return place(mask_of(7), seed_count=20, random_seed=random_seed)[0]

    npt.assert_array_equal(seeds(1), seeds(1))
    assert not np.array_equal(seeds(1), seeds(2))
    assert not np.array_equal(seeds(0), seeds(0))


def test_with_select_no_seed_is_repeated_between_batches():
    batches = place(mask_of(7), select=1, seed_count=25_000)
    assert [len(batch) for batch in batches] == [10_000, 10_000, 5_000]
    seeds = np.concatenate(batches)
    assert len(np.unique(seeds, axis=0)) == len(seeds)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"seed_count": 45}, [20, 20, 5]),
        ({"seeds_per_voxel": 5}, [14, 14, 7]),  # 2, 2 and 1 in each of 7 voxels
    ],
)
def test_no_seed_is_repeated_between_batches(monkeypatch, options, sizes):
    monkeypatch.setattr(seeding, "_BATCH_SIZE", 20)
    batches = place(mask_of(7), **options)
    assert [len(batch) for batch in batches] == sizes
    assert len(np.unique(np.concatenate(batches), axis=0)) == sum(sizes)


@pytest.mark.parametrize("seed_at_interface", [False, True])
def test_with_random_seed_0_seeds_vary_and_none_is_repeated(
    monkeypatch, seed_at_interface
):
    monkeypatch.setattr(seeding, "_BATCH_SIZE_SELECT", 20)
    wm = np.zeros((8, 8, 8))
    wm[:4] = 1
    tissues = Tissues(wm, 1 - wm, 0 * wm)
    options = {"select": 1, "seed_count": 50, "random_seed": 0}
    options["seed_at_interface"] = seed_at_interface
    one, two = (np.concatenate(place(wm + 1, tissues, **options)) for _ in range(2))
    assert len(np.unique(np.concatenate([one, two]), axis=0)) == 100


def test_with_random_seed_0_a_copy_for_another_process_gives_the_same_seeds():
    here = Seeding(seeds_per_voxel=3, random_seed=0)
    there = deepcopy(here)
    one, two = (
        np.concatenate(list(each.place(mask_of(7), AFFINE, "mask.nii.gz")[1]))
        for each in (here, there)
    )
    npt.assert_array_equal(one, two)


def test_slices_of_batches_make_up_the_whole():
    batches = [np.arange(n)[:, None] + i for n, i in ((4, 0), (3, 4), (5, 7))]
    parts = [
        [int(x) for batch in slice_batches(batches, begin, end) for x in batch[:, 0]]
        for begin, end in ((0, 5), (5, 5), (5, 12))
    ]
    assert parts == [[0, 1, 2, 3, 4], [], [5, 6, 7, 8, 9, 10, 11]]


def test_too_many_seeds_are_an_error():
    with pytest.raises(ValueError, match="there would be 7000000000 seeds"):
        place(mask_of(7), seed_density=1000)


def test_select_allows_100_seeds_per_streamline_by_default():
    assert sum(map(len, place(mask_of(7), select=30))) == 3000
    assert sum(map(len, place(mask_of(7), select=30, seeds_per_voxel=2))) == 14


def test_a_list_of_seeds_is_used_unchanged():
    points = np.array([[1.0, 2, 3], [4, 5, 6]])
    (seeds,) = place(points)
    npt.assert_array_equal(seeds, points)
    with pytest.raises(ValueError, match="is a list of seeds, but seed_count"):
        place(points, seed_count=3)


def test_seeds_on_the_interface_are_between_grey_and_white_matter():
    wm = np.zeros((8, 8, 8))
    wm[:4] = 1  # the interface is at x = 3.5
    tissues = Tissues(wm, 1 - wm, 0 * wm)
    mask = np.zeros(wm.shape)
    mask[:, 2:6, 2:6] = 1
    seeds = np.concatenate(place(mask, tissues, seed_count=40, seed_at_interface=True))
    in_voxels = (seeds - AFFINE[:3, 3]) @ np.linalg.inv(AFFINE[:3, :3]).T
    assert len(seeds) == 40
    npt.assert_allclose(in_voxels[:, 0], 3.5, atol=0.02)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed_density": 0}, "seed_density is 0"),
        ({"seed_count": -1}, "seed_count is -1"),
        ({"seeds_per_voxel": -1}, "seeds_per_voxel is -1"),
        ({"seeds_per_mm3": float("nan")}, "seeds_per_mm3 is nan"),
        ({"seeds_per_mm3": float("inf")}, "seeds_per_mm3 is inf"),
        ({"select": -5}, "select is -5"),
        ({"random_seed": -1}, "random_seed is -1"),
        ({"seed_count": 3, "seeds_per_voxel": 1}, "seed_count and seeds_per_voxel"),
        ({"seed_at_interface": True}, "seed_at_interface needs"),
        (
            {"seed_at_interface": True, "seeds_per_voxel": 1},
            "seed_at_interface is given with",
        ),
        ({"select": 3, "seed_density": 2}, "select draws"),
    ],
)
def test_contradictory_or_invalid_options_are_an_error(options, named):
    with pytest.raises(ValueError, match=named):
        Seeding(**options)


@pytest.mark.parametrize(
    ("mask", "options", "named"),
    [
        (mask_of(0), {}, "empty seed mask"),
        (-mask_of(3), {}, "empty seed mask"),
        (mask_of(3) * np.nan, {}, "NaN or infinity"),
        (mask_of(1), {"seeds_per_mm3": 0.001}, "gives no seed"),
    ],
)
def test_masks_without_a_seed_are_an_error(mask, options, named):
    with pytest.raises(ValueError, match=named):
        place(mask, **options)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("seeds.txt", "# x y z\n1 2 3\n4 5.5 6\n"),
        ("seeds.csv", "1,2,3\n4, 5.5, 6\n"),
        ("seeds.tsv", "1\t2\t3\n4\t5.5\t6\n"),
    ],
)
def test_lists_of_seeds_are_read_from_text(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    npt.assert_array_equal(load_points(path), [[1, 2, 3], [4, 5.5, 6]])


def test_a_list_of_seeds_is_read_from_an_array(tmp_path):
    path = tmp_path / "seeds.npy"
    np.save(path, np.arange(6, dtype=np.float32).reshape(2, 3))
    npt.assert_array_equal(load_points(path), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("seeds.txt", b""),
        ("seeds.txt", b"1 2\n"),
        ("seeds.txt", b"1 2 3\n4 5\n"),
        ("seeds.txt", b"1 2 x\n"),
        ("seeds.csv", b"1 2 3\n"),
        ("seeds.txt", b"1 2 nan\n"),
        ("seeds.txt", b"\xff\xfe\x00"),
        ("seeds.npy", b"no array"),
        ("seeds.npy", b""),
    ],
)
def test_invalid_lists_of_seeds_are_an_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        load_points(Path(path))
    assert "\n" not in str(caught.value)


def test_a_list_that_excel_saved_as_utf8_is_read(tmp_path):
    (tmp_path / "seeds.csv").write_text("1,2,3\n4,5,6\n", encoding="utf-8-sig")
    assert load_points(tmp_path / "seeds.csv").tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("name", "text", "how"),
    [
        ("seeds.csv", "x,y,z\n1,2,3\n", "separated by commas, and # before a header"),
        ("seeds.csv", "1;2;3\n", "separated by commas"),
        ("seeds.tsv", "1,2,3\n", "separated by tabs"),
        ("seeds.txt", "1,2,3\n", "separated by spaces"),
    ],
)
def test_a_list_in_another_form_is_an_error_with_the_form(tmp_path, name, text, how):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"give x, y and z in mm in each row, {how}"):
        load_points(tmp_path / name)


def test_pickled_seeds_are_never_read(tmp_path):
    path = tmp_path / "seeds.npy"
    np.save(path, np.array([print, {}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"seeds\.npy cannot be read as a list"):
        load_points(path)
