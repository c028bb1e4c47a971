"""Tractogram files, compared with those of trx-python, nibabel and DIPY."""

from itertools import islice
import json
import re
import subprocess
import sys
import weakref
from zipfile import ZipFile

from commands import VTK
from dipy.io.stateful_tractogram import Space, StatefulTractogram
from dipy.io.streamline import load_tractogram, save_tractogram
from dipy.tracking.streamlinespeed import compress_streamlines
import nibabel as nib
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
from trx.trx_file_memmap import load as load_trx

from dipy_rnn import io, spatial
from dipy_rnn.io import (
    check_format,
    downsample,
    join_streamlines,
    read_tractogram,
    split_batches,
    write_batches,
    write_tractogram,
)

SHAPE = (20, 22, 24)
DATA_TYPES = {
    "seeds": (3, np.float32),
    "forward_stop": (1, np.uint8),
    "weight": (1, np.float64),
}
LINES = [
    np.array([[0.0, 0.1, 0.2], [1, 1.1, 1.2], [2, 2.1, 2.2]]),
    np.array([[-3.0, 4, 5.5]]),
    np.array([[7.0, 8, 9], [7.25, 8, 9]]),
]
VALUES = [
    {"seeds": line[0], "forward_stop": (7 * i,), "weight": [i / 3], "other": "ignored"}
    for i, line in enumerate(LINES)
]
WITH_VALUES = [".trx", ".trk"]
POINTS_ONLY = [".tck", ".vtk", ".vtp", ".fib", ".dpy"]
SUFFIXES = [".trx", ".trk", ".tck", *VTK, ".dpy"]


def pairs():
    return zip(LINES, VALUES)


def names(folder):
    return {path.name for path in folder.iterdir()}


def entries(path):
    """Return the arrays of a TRX archive as bytes, and its header."""
    with ZipFile(path) as archive:
        assert archive.testzip() is None
        content = {name: archive.read(name) for name in archive.namelist()}
    return content, json.loads(content.pop("header.json"))


@pytest.fixture
def affine(oblique_affine):
    return oblique_affine(-1.0)


@pytest.fixture
def write_with_dipy(affine):
    """Return a function that writes streamlines with DIPY."""

    def write(path, streamlines, values=None, dtypes=None):
        image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)
        tractogram = StatefulTractogram(
            streamlines,
            image,
            Space.RASMM,
            data_per_streamline=values or {},
        )
        tractogram.dtype_dict = dtypes or tractogram.dtype_dict
        save_tractogram(tractogram, str(path), bbox_valid_check=False)
        return image

    return write


def value_tables():
    return {
        name: np.array([values[name] for values in VALUES], dtype).reshape(-1, width)
        for name, (width, dtype) in DATA_TYPES.items()
    }


# Contents of the files


@pytest.mark.parametrize("suffix", [*SUFFIXES, "float16"])
@pytest.mark.parametrize("kind", ["oblique", "far", "thin"])
def test_dipys_check_of_the_bounding_box_accepts_points_up_to_the_border(
    suffix, kind, affine, tmp_path
):
    shape = (200, 3, 1) if kind == "thin" else SHAPE
    if kind == "far":
        affine = np.diag([1.5, 1.5, 1.5, 1.0])
        affine[:3, 3] = 97.3, -301.7, 60.01
    corner = np.array(shape) - 0.5
    rng = np.random.default_rng(0)
    inside = rng.uniform(-0.5, corner, (4000, 3))
    for axis in range(3):  # half of the points are on the border, or next to it
        rows = slice(axis * 700, axis * 700 + 700)
        sides = np.where(rng.random(700) < 0.5, -0.5, np.nextafter(corner[axis], 0))
        inside[rows, axis] = sides
    inside[2100:2110] = -0.5
    points_mm = inside @ affine[:3, :3].T + affine[:3, 3]
    dtype = np.float16 if suffix == "float16" else np.float32
    path = tmp_path / f"a{'.trx' if suffix == 'float16' else suffix}"
    lines = [(line, {}) for line in points_mm.reshape(400, 10, 3)]
    write_tractogram(path, lines, affine, shape, dtype=dtype)
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
    for reference in (image, "same"):
        if reference == "same" and path.suffix not in (".trk", ".trx"):
            continue
        read = load_tractogram(str(path), reference, bbox_valid_check=True)
        assert len(read) == 400
    # Half of the last place up to 512 mm is 0.25 (float16) or 3e-5 mm.
    assert_allclose(
        read.streamlines.get_data(),
        points_mm,
        atol=1.0 if suffix == "float16" else 5e-4,
    )


def test_points_outside_the_image_are_written_as_they_are(tmp_path):
    lines = [(np.array([[-3.0, 0, 0], [0, 0, 0], [7.75, 0, 0]]), {})]
    for dtype in (np.float32, np.float16):
        write_tractogram(tmp_path / "a.trx", lines, np.eye(4), (3, 3, 3), dtype=dtype)
        ((line, _),) = read_tractogram(tmp_path / "a.trx")
        assert_array_equal(line, lines[0][0])


def test_a_float16_file_made_from_a_float32_file_is_the_same(affine, tmp_path):
    rng = np.random.default_rng(1)
    points = rng.uniform(-0.5, np.array(SHAPE) - 0.5, (300, 9, 3))
    points[:, ::2, 1] = -0.5 + rng.uniform(0, 1e-3, (300, 5))
    lines = [(spatial.to_mm(line, affine), {}) for line in points]
    write_tractogram(tmp_path / "a.trx", lines, affine, SHAPE)
    write_tractogram(tmp_path / "b.trx", lines, affine, SHAPE, dtype=np.float16)
    lines = read_tractogram(tmp_path / "a.trx")
    write_tractogram(tmp_path / "c.trx", lines, affine, SHAPE, dtype=np.float16)
    assert (tmp_path / "b.trx").read_bytes() == (tmp_path / "c.trx").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_dipy_reads_the_file(suffix, affine, tmp_path):
    path = tmp_path / f"with ü{suffix}"
    types = DATA_TYPES if suffix in WITH_VALUES else None
    assert write_tractogram(path, pairs(), affine, SHAPE, data_types=types) == 3
    assert names(tmp_path) == {path.name}
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)
    tractogram = load_tractogram(str(path), image, bbox_valid_check=False)
    assert len(tractogram) == 3
    for line, read in zip(LINES, tractogram.streamlines):
        assert_allclose(read, line, atol=5e-6)
    read = tractogram.data_per_streamline
    assert set(read) == set(types or ())
    for name in read:
        assert_allclose(read[name], value_tables()[name], rtol=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_read_tractogram_returns_streamlines_and_values(suffix, affine, tmp_path):
    path = tmp_path / f"a{suffix}"
    types = DATA_TYPES if suffix in WITH_VALUES else None
    write_tractogram(path, pairs(), affine, SHAPE, data_types=types)
    loaded = list(read_tractogram(path))
    assert len(loaded) == 3
    for (line, values), expected in zip(loaded, LINES):
        assert_allclose(line, expected, atol=5e-6)
        assert set(values) == set(types or ())
    for name in types or ():
        table = np.array([np.ravel(values[name]) for _, values in loaded])
        assert_allclose(table, value_tables()[name], rtol=1e-6)


def test_trx_python_reads_the_file(affine, tmp_path):
    path = tmp_path / "a.trx"
    write_tractogram(path, pairs(), affine, SHAPE, data_types=DATA_TYPES)
    loaded = load_trx(str(path))
    assert_array_equal(loaded.header["DIMENSIONS"], SHAPE)
    assert_array_equal(loaded.header["VOXEL_TO_RASMM"], affine.astype(np.float32))
    assert (loaded.header["NB_STREAMLINES"], loaded.header["NB_VERTICES"]) == (3, 6)
    assert_array_equal(loaded.streamlines._offsets, [0, 3, 4])
    assert_array_equal(loaded.streamlines._lengths, [3, 1, 2])
    assert_array_equal(
        loaded.streamlines._data, np.concatenate(LINES).astype(np.float32)
    )
    assert set(loaded.data_per_streamline) == set(DATA_TYPES)
    for name, values in value_tables().items():
        assert loaded.data_per_streamline[name].dtype == DATA_TYPES[name][1]
        assert_array_equal(loaded.data_per_streamline[name], values)
    loaded.close()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("with_values", [False, True])
def test_a_trx_file_has_the_arrays_that_trx_python_writes(
    dtype, with_values, affine, write_with_dipy, tmp_path
):
    types = DATA_TYPES if with_values else {}
    write_tractogram(
        tmp_path / "a.trx", pairs(), affine, SHAPE, data_types=types, dtype=dtype
    )
    write_with_dipy(
        tmp_path / "theirs.trx",
        LINES,
        value_tables() if with_values else None,
        {
            "positions": dtype,
            "offsets": np.uint32,
            "dpv": {},
            "dps": {name: kind for name, (_, kind) in types.items()},
        },
    )
    arrays, header = entries(tmp_path / "a.trx")
    theirs, their_header = entries(tmp_path / "theirs.trx")
    assert arrays == theirs
    assert header == their_header


@pytest.mark.parametrize(
    ("suffix", "with_values"), [(".trk", False), (".trk", True), (".tck", False)]
)
def test_trk_and_tck_have_the_bytes_that_dipy_writes(
    suffix, with_values, affine, write_with_dipy, tmp_path
):
    path, theirs = tmp_path / f"a{suffix}", tmp_path / f"theirs{suffix}"
    types = DATA_TYPES if with_values else {}
    write_tractogram(path, pairs(), affine, SHAPE, data_types=types)
    write_with_dipy(theirs, LINES, value_tables() if with_values else None)
    if suffix == ".trk":
        ours, of_dipy = (nib.streamlines.load(p).header for p in (path, theirs))
        assert_allclose(ours["voxel_sizes"], of_dipy["voxel_sizes"], rtol=1e-6)
    # Voxel sizes differ by rounding: DIPY takes them from the header of an image.
    sizes = slice(12, 24)
    contents = [bytearray(p.read_bytes()) for p in (path, theirs)]
    if suffix == ".trk":
        for content in contents:
            content[sizes] = bytes(12)
    else:  # as text their length may differ, and so the offset of the streamlines
        varies = re.compile(rb"^(voxel_sizes: .*|file: . \d+)\n", re.M)
        contents = [varies.sub(b"", content) for content in contents]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("suffix", [*VTK, ".dpy"])
def test_dipy_loads_the_lines_of_a_vtk_or_dpy_file_with_its_default_checks(
    suffix, tmp_path
):
    path, affine = tmp_path / f"a{suffix}", np.diag([2.0, 2, 2, 1])
    lines = [np.array([[0.1, 0, 7], [1 / 3, 5, 40]]), np.array([[3.0, 4, 5]])]
    write_tractogram(path, [(line, {}) for line in lines], affine, SHAPE)
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)
    loaded = load_tractogram(str(path), image).streamlines
    ours = [line for line, _ in read_tractogram(path)]
    assert len(loaded) == len(ours) == 2
    for line, theirs, our in zip(lines, loaded, ours):
        assert_array_equal(our, line.astype(np.float32))
        assert_allclose(theirs, line, atol=5e-6)  # DIPY converts to voxels and back


@pytest.mark.filterwarnings("ignore:'where' used without 'out'")  # of fury
@pytest.mark.parametrize("suffix", [*VTK, ".dpy"])
def test_a_vtk_or_dpy_file_has_the_lines_of_one_that_dipy_writes(
    suffix, write_with_dipy, tmp_path
):
    path = tmp_path / f"theirs{suffix}"
    write_with_dipy(path, LINES)
    loaded = [line for line, _ in read_tractogram(path)]
    assert len(loaded) == 3
    for line, expected in zip(loaded, LINES):
        assert_allclose(line, expected, atol=5e-6)


@pytest.mark.parametrize("suffix", [*VTK, ".dpy"])
def test_a_vtk_or_dpy_file_that_is_cut_off_is_an_error(suffix, affine, tmp_path):
    path = tmp_path / f"a{suffix}"
    write_tractogram(path, [(np.ones((50, 3)), {})] * 20, affine, SHAPE)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match="cannot be read as a tractogram") as caught:
        list(read_tractogram(path))
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_vtk_file_without_fury_is_an_error_before_the_first_streamline(
    monkeypatch,
):
    monkeypatch.setattr("dipy.io.vtk.have_fury", False)
    with pytest.raises(ValueError, match=r"out is a\.vtp: DIPY needs fury.*\[vtk\]"):
        check_format("a.vtp", name="out")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_tractogram_is_a_file(suffix, affine, tmp_path):
    path = tmp_path / f"a{suffix}"
    types = DATA_TYPES if suffix in WITH_VALUES else None
    assert write_tractogram(path, iter(()), affine, SHAPE, data_types=types) == 0
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)
    assert len(load_tractogram(str(path), image, bbox_valid_check=False)) == 0
    if suffix == ".trx":
        arrays, header = entries(path)
        assert arrays == {
            "positions.3.float32": b"",
            "offsets.uint32": bytes(4),
            "dps/seeds.3.float32": b"",
            "dps/forward_stop.uint8": b"",
            "dps/weight.float64": b"",
        }
        assert header["NB_STREAMLINES"] == header["NB_VERTICES"] == 0
        assert header["DIMENSIONS"] == list(SHAPE)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_streamlines_without_points_are_left_out(suffix, affine, tmp_path):
    nothing = np.empty((0, 3))
    some = [(nothing, {}), *pairs(), (nothing, {})]
    ours, only = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    assert write_tractogram(ours, some, affine, SHAPE) == 3
    assert write_tractogram(only, pairs(), affine, SHAPE) == 3
    assert ours.read_bytes() == only.read_bytes()
    assert write_tractogram(ours, [(nothing, {})], affine, SHAPE) == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_streamlines_give_the_same_bytes(
    suffix, affine, tmp_path, monkeypatch
):
    types = DATA_TYPES if suffix in WITH_VALUES else None
    paths = [tmp_path / f"{name}{suffix}" for name in ("a", "b")]
    for path, batch_size in zip(paths, (1024, 2)):
        monkeypatch.setattr("dipy_rnn.io.tractogram.batches._BATCH_SIZE", batch_size)
        monkeypatch.setattr("dipy_rnn.io.tractogram.trx._BLOCK", 8 * batch_size)
        many = (pair for _ in range(5) for pair in pairs())
        assert write_tractogram(path, many, affine, SHAPE, data_types=types) == 15
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == ".trx":
        with ZipFile(paths[0]) as archive:
            times = {entry.date_time for entry in archive.infolist()}
        assert times == {(1980, 1, 1, 0, 0, 0)}  # the earliest date of a zip file


@pytest.mark.parametrize("suffix", WITH_VALUES)
def test_arrays_of_many_streamlines_give_the_same_bytes_as_streamlines(
    suffix, affine, tmp_path
):
    one_by_one, together = (tmp_path / f"{name}{suffix}" for name in ("a", "b"))
    write_tractogram(one_by_one, pairs(), affine, SHAPE, data_types=DATA_TYPES)
    lengths = np.array([len(line) for line in LINES])
    tables = {name: table.astype(float) for name, table in value_tables().items()}
    batches = [
        (np.concatenate(LINES[:1]), lengths[:1], {k: v[:1] for k, v in tables.items()}),
        (np.concatenate(LINES[1:]), lengths[1:], {k: v[1:] for k, v in tables.items()}),
    ]
    n = write_batches(together, batches, affine, SHAPE, data_types=DATA_TYPES)
    assert n == len(LINES)
    assert one_by_one.read_bytes() == together.read_bytes()


def test_streamlines_are_joined_and_split():
    batches = list(join_streamlines(pairs(), DATA_TYPES))
    for (line, values), expected, given in zip(
        split_batches(batches), LINES, VALUES, strict=True
    ):
        assert_array_equal(line, expected)
        assert_array_equal(values["seeds"], given["seeds"].astype(np.float32))
        assert set(values) == set(DATA_TYPES)


def test_more_points_than_uint32_can_count_have_uint64_offsets(
    affine, tmp_path, monkeypatch
):
    for most, kind in ((6, np.uint32), (5, np.uint64)):
        monkeypatch.setattr("dipy_rnn.io.tractogram.trx._MAX_UINT32_POINTS", most)
        write_tractogram(tmp_path / "a.trx", pairs(), affine, SHAPE)
        loaded = load_trx(str(tmp_path / "a.trx"))
        assert loaded.streamlines._offsets.dtype == kind
        assert_array_equal(loaded.streamlines._offsets, [0, 3, 4])
        loaded.close()


def test_float16_has_the_documented_error(affine, tmp_path):
    places_mm = np.linspace(64, 256, 9973)
    line = np.stack([places_mm, -places_mm, 0 * places_mm], axis=1)
    for dtype, most_mm in ((np.float16, (0.03125, 0.0625)), (np.float32, (4e-6, 8e-6))):
        write_tractogram(tmp_path / "a.trx", [(line, {})], affine, SHAPE, dtype=dtype)
        loaded = load_trx(str(tmp_path / "a.trx"))
        error_mm = np.abs(loaded.streamlines[0].astype(float) - line).max(axis=1)
        loaded.close()
        for near, most in zip((places_mm < 128, places_mm > 128), most_mm):
            assert 0.9 * most < error_mm[near].max() <= most


# Memory


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_few_streamlines_are_in_memory_at_a_time(suffix, affine, tmp_path, monkeypatch):
    monkeypatch.setattr("dipy_rnn.io.tractogram.batches._BATCH_SIZE", 4)
    held, most = weakref.WeakSet(), 0

    class Points(np.ndarray):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def lines():
        nonlocal most
        for i in range(60):
            points = LINES[i % 3].view(Points)
            held.add(points)
            most = max(most, len(held))
            yield points, {"seeds": points[0]}

    types = {"seeds": (3, np.float32)} if suffix in WITH_VALUES else None
    path = tmp_path / f"a{suffix}"
    every = downsample(lines(), every=2, tolerance_mm=0.1)
    assert write_tractogram(path, every, affine, SHAPE, data_types=types) == 60
    assert 4 <= most <= 20


# Invalid arguments


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.ply", {}, r"path is .*a\.ply; it must end in \.trx, \.trk, \.tck, \.vtk"),
        ("a.TRX", {}, r"it must end in .*\.dpy, in lower case"),
        # DIPY and MRtrix3 do not read these.
        ("a.TRK", {}, "in lower case"),
        ("a.Tck", {}, "in lower case"),
        ("a.tck", {"data_types": DATA_TYPES}, r"\.tck file cannot hold seeds, forward"),
        (
            "a.trk",
            {"dtype": np.float16},
            r"only \.trx files store positions",
        ),
        *(
            (f"a{suffix}", {"data_types": DATA_TYPES}, f"a {suffix} file cannot hold")
            for suffix in POINTS_ONLY
        ),
        *(
            (f"a{suffix}", {"dtype": np.float16}, r"only \.trx files store positions")
            for suffix in POINTS_ONLY
        ),
        ("a.trx", {"dtype": np.float64}, "dtype is float64; float32 or float16"),
        ("a.trx", {"dtype": np.int32}, "dtype is int32; float32 or float16"),
        (
            "a.trx",
            {"data_types": {"a.b": (1, "f4")}},
            r"has the name 'a\.b'",
        ),
        (
            "a.trx",
            {"data_types": {"../x": (1, "f4")}},
            r"has the name '\.\./x'",
        ),
        (
            "a.trk",
            {"data_types": {"x" * 19: (1, "f4")}},
            "has the name 'xxx",
        ),
        ("a.trx", {"data_types": {"x": (0, "f4")}}, "data_types has 0 of float32"),
        ("a.trx", {"data_types": {"x": (1, bool)}}, "data_types has 1 of bool"),
        ("a.trx", {"data_types": {"x": (3.0, "f4")}}, r"data_types has 3\.0 of float"),
        ("a.trx", {"affine": np.zeros((4, 4))}, "affine ends in the row"),
        ("a.trx", {"affine": np.eye(3)}, r"affine has the shape \(3, 3\)"),
        ("a.trx", {"shape": (5, 5)}, r"shape is \(5, 5\)"),
        ("a.trx", {"shape": (5.5, 5, 5)}, r"shape along an axis is 5\.5"),
        ("a.trk", {"shape": (5, 5, 2**15)}, "shape along an axis is 32768"),
    ],
)
def test_invalid_arguments_are_errors_before_the_first_streamline(
    name, options, said, affine, tmp_path
):
    arguments = {"affine": affine, "shape": SHAPE} | options
    with pytest.raises(ValueError, match=said) as caught:
        write_tractogram(
            tmp_path / name, iter(lambda: pytest.fail("asked"), None), **arguments
        )
    assert "\n" not in str(caught.value)
    assert not names(tmp_path)


def test_a_name_of_18_letters_fits(affine, tmp_path):
    name, path = "x" * 18, tmp_path / "a.trk"
    lines = [(LINES[0], {name: np.arange(9)})]
    write_tractogram(path, lines, affine, SHAPE, data_types={name: (9, np.float32)})
    values = nib.streamlines.load(path).tractogram.data_per_streamline[name]
    assert_array_equal(values, [np.arange(9)])


def test_all_formats_are_tested():
    assert io.SUFFIXES == (*WITH_VALUES, *POINTS_ONLY)


def test_errors_use_the_name_of_the_argument():
    with pytest.raises(ValueError, match=r"^out_tractogram is a\.txt;"):
        check_format("a.txt", name="out_tractogram")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            np.array([[0, 0, 0], [np.nan, 0, 0]]),
            "not finite in float32",
        ),
        (np.array([[0, 0, np.inf]]), "not finite in float32"),
        (np.array([[0, 0, 1e39]]), "not finite in float32"),
        (np.zeros((4, 2)), r"a streamline has the shape \(4, 2\); \(M, 3\) is needed"),
        (np.zeros((4, 1, 3)), r"a streamline has the shape \(4, 1, 3\); \(M, 3\)"),
        ([[0, 0, 0], [0, 0]], "a streamline is not an array of real numbers"),
        (np.full((2, 3), "a"), "a streamline is of type <U1"),
    ],
)
def test_an_invalid_streamline_is_an_error_and_leaves_no_file(
    suffix, line, said, affine, tmp_path
):
    # Alone, or after a valid one.
    for lines in ([(line, {})], [(LINES[0], {}), (line, {})]):
        with pytest.raises(ValueError, match=said) as caught:
            write_tractogram(tmp_path / f"a{suffix}", lines, affine, SHAPE)
        assert "\n" not in str(caught.value)
        assert not names(tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_points_may_have_any_memory_layout(suffix, affine, tmp_path):
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path, layout in zip(paths, (np.ascontiguousarray, np.asfortranarray)):
        lines = [(layout(line), {}) for line in (LINES[0], LINES[2])]
        assert write_tractogram(path, lines, affine, SHAPE) == 2
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_coordinate_too_large_for_float16_is_an_error(affine, tmp_path):
    line = np.array([[70000.0, 0, 0]])
    path = tmp_path / "a.trx"
    assert write_tractogram(path, [(line, {})], affine, SHAPE) == 1
    with pytest.raises(ValueError, match="not finite in float16"):
        write_tractogram(path, [(line, {})], affine, SHAPE, dtype=np.float16)


SEEDS = {"seeds": LINES[0][0]}


@pytest.mark.parametrize("suffix", WITH_VALUES)
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([{"seeds": [1.0, 2.0]}], r"seeds has the shape \(2,\); .* \(3,\)"),
        ([{}], "a streamline has no seeds, which data_types names"),
        ([SEEDS, {"other": 1}], "a streamline has no seeds, which data_types names"),
        ([None], "a streamline has no seeds, which data_types names"),
        ([SEEDS, {"seeds": [1.0, 2.0]}], "seeds of a streamline is not 3 of float32"),
        ([{"seeds": ["a", "b", "c"]}], "seeds of a streamline is not 3 of float32"),
        ([{"seeds": [1j, 0, 0]}], "seeds of a streamline is not 3 of float32"),
    ],
)
def test_values_that_differ_from_data_types_are_an_error(
    suffix, values, said, affine, tmp_path
):
    lines = [(LINES[0], of_line) for of_line in values]
    types = {"seeds": (3, np.float32)}
    with pytest.raises(ValueError, match=said) as caught:
        write_tractogram(
            tmp_path / f"a{suffix}", lines, affine, SHAPE, data_types=types
        )
    assert "\n" not in str(caught.value)
    assert not names(tmp_path)


# Errors while writing


@pytest.mark.parametrize("suffix", [".trx", ".trk", ".tck", ".dpy"])
def test_a_full_disk_is_an_error_that_names_the_file_and_keeps_the_old_one(
    suffix, affine, tmp_path
):
    path = tmp_path / f"a{suffix}"
    path.write_text("old")
    types = DATA_TYPES if suffix in WITH_VALUES else None
    many = (pair for _ in range(1000) for pair in pairs())
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_tractogram(path, many, affine, SHAPE, data_types=types)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == {path.name}


ON_A_FULL_DISK = """
from pathlib import Path
import resource, sys
import numpy as np
from dipy_rnn.io import write_tractogram
many = [(np.random.rand(30, 3), {})] * 1000
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
write_tractogram(Path(sys.argv[1]), many, np.eye(4), (5, 5, 5))
"""


@pytest.mark.parametrize("suffix", VTK)
def test_a_vtk_file_on_a_full_disk_is_never_incomplete(suffix, tmp_path):
    # VTK may crash then, so this is another process.
    pytest.importorskip("resource")
    path = tmp_path / f"a{suffix}"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, path], capture_output=True
    )
    assert done.returncode != 0
    assert path.read_text() == "old"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("ends", [KeyboardInterrupt, RuntimeError])
def test_an_error_of_the_tracker_leaves_no_file(
    suffix, ends, affine, tmp_path, monkeypatch
):
    monkeypatch.setattr("dipy_rnn.io.tractogram.batches._BATCH_SIZE", 2)

    def lines():
        yield from pairs()
        raise ends

    with pytest.raises(ends):
        write_tractogram(tmp_path / f"a{suffix}", lines(), affine, SHAPE)
    assert not names(tmp_path)


# Fewer points per streamline

STRAIGHT = np.arange(11.0)[:, None] * [0.5, 0, 0]


@pytest.mark.parametrize(
    ("n", "every", "kept"),
    [
        (11, 1, range(11)),
        (11, 5, [0, 5, 10]),
        (11, 4, [0, 4, 8, 10]),
        (11, 4.0, [0, 4, 8, 10]),
        (11, np.float32(4), [0, 4, 8, 10]),
        (11, 3, [0, 3, 6, 9, 10]),
        (11, 10, [0, 10]),
        (11, 99, [0, 10]),
        (2, 3, [0, 1]),
        (1, 3, [0]),
        (0, 3, []),
    ],
)
def test_every_nth_point_and_both_ends_are_kept(n, every, kept):
    ((points, values),) = downsample([(STRAIGHT[:n], "passed on")], every=every)
    assert_array_equal(points, STRAIGHT[list(kept)])
    assert values == "passed on"


def test_points_on_a_straight_line_are_removed():
    corner = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0], [2, 2, 0]])
    near = corner + np.array([0, 0, 0.05])[None] * (np.arange(5) == 1)[:, None]
    lines = [(corner, "a"), (near, "b"), (corner[:1], "c"), (corner[:0], "d")]
    for tolerance_mm, kept in (
        (0.1, [[0, 2, 4], [0, 2, 4], [0], []]),
        (0.01, [[0, 2, 4], [0, 1, 2, 4], [0], []]),
        (0.0, [range(5), range(5), [0], []]),
    ):
        few = list(downsample(lines, tolerance_mm=tolerance_mm))
        assert [values for _, values in few] == ["a", "b", "c", "d"]
        for (points, _), (line, _), rows in zip(few, lines, kept):
            assert_array_equal(points, line[list(rows)])


def test_compression_is_that_of_dipy_for_any_batch_and_type(monkeypatch):
    monkeypatch.setattr("dipy_rnn.io.tractogram.batches._BATCH_SIZE", 3)
    rng = np.random.default_rng(0)
    lines = [rng.normal(0, 0.2, (n, 3)).cumsum(axis=0) for n in (40, 2, 90, 30, 7)]
    lines[2] = lines[2].astype(np.float32)
    every = downsample(((line, i) for i, line in enumerate(lines)), tolerance_mm=0.2)
    for n, (points, i) in enumerate(every):
        assert i == n
        theirs = compress_streamlines(lines[n].astype(float), tol_error=0.2)
        assert_array_equal(points, theirs)
        assert points.dtype == float
        assert len(points) < len(lines[n]) or n == 1
    assert n == 4


def test_points_are_removed_by_number_and_then_by_distance():
    zigzag = np.array([[0.0, 0, 0], [1, 1, 0], [2, 0, 0], [3, 1, 0], [4, 0, 0]])
    ((points, _),) = downsample([(zigzag, None)], every=2, tolerance_mm=0.1)
    assert_array_equal(points, zigzag[[0, 4]])


def test_downsampling_takes_streamlines_only_when_needed():
    forever = iter(lambda: (STRAIGHT, None), None)
    few = list(islice(downsample(forever, every=5, tolerance_mm=0.1), 3))
    assert [len(points) for points, _ in few] == [2, 2, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, "every is 0; a whole number"),
        ({"every": 1.5}, r"every is 1\.5; a whole number"),
        ({"every": np.nan}, "every is nan; a whole number"),
        ({"every": np.inf}, "every is inf; a whole number"),
        ({"every": "2"}, "every is of type str"),
        ({"tolerance_mm": -0.1}, r"tolerance_mm is -0\.1; 0 mm or more"),
        ({"tolerance_mm": np.inf}, "tolerance_mm is inf"),
        ({"tolerance_mm": np.nan}, "tolerance_mm is nan"),
    ],
)
def test_invalid_options_of_downsample_are_errors_at_once(options, said):
    with pytest.raises(ValueError, match=said):
        downsample([], **options)
