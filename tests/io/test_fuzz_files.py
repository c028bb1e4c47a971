"""Damaged files: the command reads them, or ends with one line that names the file."""

import os
from pathlib import Path
import subprocess
import sys
from tempfile import TemporaryDirectory
import zipfile

from fuzzing import FILES, REFUSED, Subject, nifti, run_command, tractogram, world
from fuzzing_commands import COMMANDS
import h5py
from hypothesis import HealthCheck, given, settings, strategies
import nibabel as nib
import numpy as np
import pytest

from dipy_rnn.io import load_features, load_volume, read_tractogram

few = settings(
    max_examples=8,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("kind", [*FILES, *COMMANDS])
@few
@given(r=strategies.randoms(use_true_random=False))
def test_a_random_change_of_a_file_is_read_or_an_error_of_one_line(kind, r):
    here = os.getcwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)  # DIPY's workflows may write to the working directory
        try:
            (FILES | COMMANDS)[kind](r, Path(folder))
        finally:
            os.chdir(here)


# Cases that random changes found


def refusal(read, path, *arguments):
    """Return the one-line error with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        read(path, *arguments)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_an_image_whose_header_announces_terabytes_takes_no_memory(tmp_path, suffix):
    path = tmp_path / f"fa{suffix}"
    content = bytearray(nifti(world().mask.astype(np.uint8), world().affine))
    content[42:48] = np.full(3, 32767, "<i2").tobytes()  # its shape
    with nib.openers.Opener(path, "wb") as file:
        file.write(bytes(content))
    assert "35181150961663 bytes" in refusal(load_volume, path)


def test_peaks_whose_header_announces_terabytes_take_no_memory(tmp_path):
    path = tmp_path / "peaks.pam5"
    path.write_bytes(Subject.content("pam"))
    with h5py.File(path, "r+") as file:
        del file["pam/shm_coeff"]
        file.create_dataset("pam/shm_coeff", (2**14, 2**14, 2**12), "f8", chunks=True)
    message = refusal(load_features, path, "sh", None, "voxel")
    assert f"shm_coeff should take {2**43} bytes" in message


def test_strings_of_a_peaks_and_metrics_file_are_not_read(tmp_path):
    # If a size in the heap of the strings is wrong, HDF5 loops forever.
    path = tmp_path / "peaks.pam5"
    content = bytearray(Subject.content("pam"))
    at = content.index(b"GCOL")
    content[at + 16 : at + 4096] = bytes(4080)
    path.write_bytes(content)
    features, _ = load_features(path, "sh", None, "voxel")
    assert features.data.shape == world().fodf.shape


@pytest.mark.parametrize("name", ["fa.nii.gz", "peaks.pam5", "lines.trk"])
def test_a_pipe_is_an_error_at_once(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    read = {
        "fa.nii.gz": load_volume,
        "peaks.pam5": lambda path: load_features(path, "sh", None, "voxel"),
        "lines.trk": lambda path: list(read_tractogram(path)),
    }[name]
    assert "is not a file" in refusal(read, path)


def test_a_damaged_trx_file_is_an_error_and_not_changed(tmp_path):
    # trx-python maps the file for writing, which extends a file that is too short.
    path = tmp_path / "lines.trx"
    path.write_bytes(tractogram(".trx"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("groups/some.uint32", np.arange(3, dtype=np.uint32).tobytes())
    content = bytearray(path.read_bytes())
    at = content.rindex(b"groups/some.uint32") - 46
    content[at + 27] ^= 1  # adds 16 MB to the size in the list of entries
    path.write_bytes(content)
    message = refusal(lambda path: list(read_tractogram(path)), path)
    assert "groups/some.uint32 has two different sizes" in message
    assert path.read_bytes() == content


@pytest.mark.parametrize("suffix", [".trk", ".tck"])
def test_a_tractogram_with_a_point_too_far_away_is_an_error(tmp_path, suffix):
    path = tmp_path / f"lines{suffix}"
    line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 1e9, 0]], np.float32)
    lines = nib.streamlines.Tractogram([line], affine_to_rasmm=np.eye(4))
    nib.streamlines.save(lines, str(path))
    message = refusal(lambda path: list(read_tractogram(path)), path)
    assert "a point is not finite, or farther" in message


@pytest.mark.parametrize("kind", ["c8", "c16", "rgb"])
def test_an_image_without_real_numbers_is_an_error_that_names_it(tmp_path, kind):
    path = tmp_path / "fa.nii"
    dtype = [("R", "u1"), ("G", "u1"), ("B", "u1")] if kind == "rgb" else kind
    path.write_bytes(nifti(np.zeros((2, 2, 2), dtype), np.eye(4)))
    assert "real numbers are needed" in refusal(load_volume, path)


def test_an_image_without_voxels_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "fa.nii"
    path.write_bytes(nifti(np.zeros((2, 0, 2), np.float32), np.eye(4)))
    assert "no voxel" in refusal(load_volume, path)


def test_a_name_that_cannot_be_printed_is_escaped_in_the_error(tmp_path):
    subject = Subject(tmp_path)
    subject.write("stopping", b"none", "\udcff\n.nii")
    status, _ = run_command(subject.arguments)
    assert "\n" not in status and status.isprintable()


def test_a_folder_without_permission_is_an_error(tmp_path):
    subject = Subject(tmp_path)
    subject.out = Path("/proc/none")
    assert subject.judge() == REFUSED


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_damaged_file_does_not_end_the_process(tmp_path):
    subject = Subject(tmp_path)
    subject.path("pam").write_bytes(subject.content("pam")[:9999])
    done = subprocess.run(
        [Path(sys.executable).parent / "dipy_track_rnn", *subject.arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("dipy_track_rnn: error: ") and "peaks.pam5" in line
