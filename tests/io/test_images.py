"""Images with unusual axes and formats."""

import gzip
import logging
from pathlib import Path

from dipy.io.image import save_nifti
import nibabel as nib
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
from worlds import OBLIQUE_ROTATION, affine_of

from dipy_rnn import sampling, spatial
from dipy_rnn.io import load_features, load_points, load_volume, read_tractogram
from dipy_rnn.io.files import check_input
from dipy_rnn.io.images import sample_on_grid


@pytest.fixture
def save(tmp_path):
    def write(data):
        save_nifti(tmp_path / "a.nii.gz", data.astype(np.float32), np.eye(4))
        return tmp_path / "a.nii.gz"

    return write


def test_axes_of_length_1_that_itk_writes_are_removed(save):
    data = np.random.default_rng(0).random((4, 3, 2, 6))
    for n_axes in (4, (4, 5)):
        read, _ = load_volume(save(data[:, :, :, None]), n_axes)
        assert_array_equal(read, data.astype(np.float32))
    for shape in ((4, 3, 2, 1), (4, 3, 2, 1, 1)):
        read, _ = load_volume(save(data[..., 0].reshape(shape)))
        assert_array_equal(read, data[..., 0].astype(np.float32))
    # A single peak is three volumes, also for a reader of peaks.
    read, _ = load_volume(save(data[:, :, :, None, :3]), (4, 5))
    assert read.shape == (4, 3, 2, 3)
    with pytest.raises(ValueError, match="5 axes"):
        load_volume(save(data.reshape(4, 3, 2, 2, 3)), 4)


def test_an_fodf_from_itk_is_the_same_as_one_with_four_axes(save, lobes):
    coeffs = np.broadcast_to(lobes([1.0, 0, 0])[0], (3, 3, 3, 45))
    four, _ = load_features(save(coeffs), "sh", "tournier07", "voxel")
    five, _ = load_features(save(coeffs[:, :, :, None]), "sh", None, "voxel")
    assert_array_equal(five.data.shape, four.data.shape)
    five, _ = load_features(save(coeffs[:, :, :, None]), "sh", "tournier07", "voxel")
    assert_array_equal(five.data, four.data)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("wm.fod.mif", "mrconvert wm.fod.mif wm.fod.nii.gz"),
        ("WM.MIF.gz", "mrconvert WM.MIF.gz WM.nii.gz"),
        ("wm.mih", "mrconvert wm.mih wm.nii.gz"),
        ("a.trk.gz", "gunzip a.trk.gz"),
        ("a.TCK.gz", "gunzip a.TCK.gz"),
    ],
)
def test_files_that_must_be_converted_are_refused_with_the_command(name, remedy):
    with pytest.raises(ValueError, match=remedy):
        check_input(Path(name))


def test_mapped_files_with_usual_names_are_accepted():
    for name in ("fa.nii.gz", "mif.nii.gz", "a.trk", "trk.gz.csv"):
        check_input(Path(name))


def test_an_image_is_sampled_at_the_voxel_centres_of_another_grid():
    rng = np.random.default_rng(3)
    data = rng.random((6, 5, 4)).astype(np.float32)
    affine = affine_of((2.0, 2.5, 3.0), OBLIQUE_ROTATION, 4.0)
    grid_affine, shape = affine_of((1.0, 1.1, 0.9), np.eye(3), -3.0), (15, 14, 16)
    centres_mm = spatial.to_mm(np.indices(shape).reshape(3, -1).T, grid_affine)
    points_vox = spatial.to_voxels(centres_mm, affine)
    values, inside = sampling.sample(data[..., None], points_vox)
    assert 0.1 < inside.mean() < 0.9
    linear = sample_on_grid(data, affine, shape, grid_affine)
    assert_allclose(linear.ravel(), values[:, 0], atol=1e-6)
    labels = np.arange(data.size, dtype=np.int16).reshape(data.shape) + 1
    nearest = sample_on_grid(labels, affine, shape, grid_affine, is_nearest=True)
    expected = np.zeros(len(points_vox), np.int16)
    expected[inside] = labels[*np.rint(points_vox[inside]).astype(int).T]
    assert nearest.dtype == np.int16
    assert_array_equal(nearest.ravel(), expected)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("/annex/objects/MD5E-s99--0123.nii.gz\n", "datalad get or git annex get"),
        ("version https://git-lfs.github.com/spec/v1\nsize 9\n", "git lfs pull"),
    ],
)
def test_a_pointer_in_place_of_the_content_is_refused(tmp_path, content, remedy):
    for name, read in (
        ("fa.nii.gz", load_volume),
        ("csd.pam5", lambda path: load_features(path, "sh", None, "voxel")),
        ("a.trk", lambda path: list(read_tractogram(path))),
        ("seeds.txt", load_points),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name} holds the name .*{remedy}"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["sub.fib.gz", "sub.gqi.fz", "sub.src.gz", "sub.SZ", "cst.tt.gz"]
)
def test_files_of_dsi_studio_are_refused_as_such(name):
    with pytest.raises(ValueError, match=f"{name} is a file of DSI Studio; export it"):
        check_input(Path(name))


GZIP = gzip.compress(b"not an image")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("fa.nii", GZIP, r"is compressed by gzip; rename it to \S+fa.nii.gz"),
        ("fa.nii.gz", b"\0" * 400, "is not compressed by gzip, as its suffix says"),
        ("fa.mgz", b"\0" * 400, "is not compressed by gzip, as its suffix says"),
        ("fa.nii.gz", b"", "is empty"),
        ("fa.nii", b"", "is empty"),
        ("fa.fib", b"# vtk", "is a tractogram in VTK format or a file of DSI Studio"),
        ("fa.trk", b"TRACK", "is a tractogram, not an image"),
        ("fa.nii", b"mrtrix tracks", "is a tractogram, not an image"),
        ("fa.nii", b"mrtrix image", "is an image of MRtrix3; convert it with mrconv"),
        ("fa.nrrd", b"NRRD0004", "is an image in NRRD format; convert it to NIfTI"),
        ("fa.nii.gz", b"NRRD0004", "is an image in NRRD format; convert it to NIfTI"),
        ("fa.mha", b"ObjectType", "is an image in MetaImage format"),
        ("fa.IMA", b"\0" * 400, "is a DICOM file; convert the series .* dcm2niix"),
        ("lh.gii", b"<GIFTI/>", "is a surface; give an image of voxels"),
        ("csd.h5", b"\x89HDF\r\n", "is an HDF5 file; rename it to .pam5 if dipy_fit_c"),
        ("csd.nii.gz", b"\x89HDF\r\n", "is an HDF5 file; rename it to .pam5"),
        ("fa.nii.zst", b"\x28\xb5\x2f\xfd", "is compressed by zstd; decompress it"),
        ("fa.nii.xz", b"\xfd7zXZ", "is compressed by xz; decompress it with xz -d"),
        ("fa.npy", b"\x93NUMPY", "is an array without an affine"),
    ],
)
def test_a_file_of_a_known_other_format_is_named_with_the_remedy(
    tmp_path, name, content, text
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {text}"):
        load_volume(tmp_path / name)


def write_with_header(path, *, sform=None, qform=None, unit="mm"):
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.float32), None)
    image.set_sform(sform, int(sform is not None))
    image.set_qform(qform, int(qform is not None))
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({}, "has no affine in its header, only voxel sizes"),
        (
            {"sform": np.eye(4), "qform": np.diag([1, 1, 2, 1])},
            "has two affines in its",
        ),
        ({"sform": np.eye(4), "unit": "meter"}, "has meter as the unit in its header"),
        (
            {"qform": np.eye(4), "unit": "micron"},
            "has micron as the unit in its header",
        ),
        ({"sform": np.eye(4)}, ""),
        ({"qform": np.eye(4), "unit": "unknown"}, ""),
        ({"sform": np.eye(4), "qform": np.eye(4)}, ""),
    ],
)
def test_headers_that_programs_read_differently_are_told(
    tmp_path, caplog, header, text
):
    write_with_header(tmp_path / "fa.nii.gz", **header)
    _, affine = load_volume(tmp_path / "fa.nii.gz")
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert all(f"fa.nii.gz {text}" in warning for warning in warnings)
    assert bool(warnings) == bool(text)
    expected = header.get("sform", header.get("qform"))
    if expected is not None:
        assert_array_equal(affine, expected)


@pytest.mark.parametrize("code", [4, 7, 64, 255])
def test_an_unknown_code_of_the_unit_is_ignored(tmp_path, caplog, code):
    path = tmp_path / "fa.nii"
    write_with_header(path, sform=np.eye(4))
    content = bytearray(path.read_bytes())
    content[123] = code  # xyzt_units
    path.write_bytes(content)
    assert_array_equal(load_volume(path)[1], np.eye(4))
    assert not caplog.records


def test_an_invalid_quaternion_beside_an_affine_is_ignored(tmp_path):
    path = tmp_path / "fa.nii"
    write_with_header(path, sform=np.eye(4), qform=np.eye(4))
    content = bytearray(path.read_bytes())
    content[256:268] = np.full(3, 9.0, "<f4").tobytes()
    path.write_bytes(content)
    assert_array_equal(load_volume(path)[1], np.eye(4))


@pytest.mark.parametrize("name", ["a.trk", "a.tck", "a.TRX", "a.vtk"])
def test_a_compressed_tractogram_without_gz_in_its_name_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(GZIP)
    with pytest.raises(ValueError, match=f"{name} is compressed by gzip; rename it to"):
        list(read_tractogram(tmp_path / name))
