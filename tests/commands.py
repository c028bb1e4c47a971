"""Files of subjects, and functions that run the commands on them."""

import sys
import warnings

from dipy.data import default_sphere
from dipy.direction.peaks import PeaksAndMetrics
from dipy.io.image import save_nifti
from dipy.io.peaks import niftis_to_pam, save_pam
from dipy.io.streamline import load_tractogram
from dipy.io.vtk import have_fury
from dipy.reconst.shm import sh_to_sf_matrix
import numpy as np
import pytest

from dipy_rnn import sampling
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.workflows import cli

needs_fury = pytest.mark.skipif(not have_fury, reason="DIPY needs fury for VTK files")
VTK = [pytest.param(suffix, marks=needs_fury) for suffix in (".vtk", ".vtp", ".fib")]


def write_pam(path, fodf, affine, sh_basis="descoteaux07", legacy=True):
    pam = PeaksAndMetrics()
    pam.affine, pam.sphere, pam.shm_coeff = affine, default_sphere, fodf
    with warnings.catch_warnings():  # DIPY warns of legacy bases
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        pam.B = sh_to_sf_matrix(
            default_sphere,
            sh_order_max=sampling.sh_order(fodf.shape[3]),
            basis_type=sh_basis,
            legacy=legacy,
            return_inv=False,
        )
    pam.peak_dirs = np.zeros((*fodf.shape[:3], 5, 3))
    pam.peak_values = np.zeros((*fodf.shape[:3], 5))
    pam.peak_indices = np.zeros((*fodf.shape[:3], 5), dtype=np.int32)
    pam.total_weight, pam.ang_thr = 0.5, 60
    pam.gfa = np.zeros(fodf.shape[:3])
    pam.qa = np.zeros((*fodf.shape[:3], 5))
    pam.odf = None
    save_pam(path, pam)


def write_peaks(path, directions, affine):
    """Save a peaks and metrics file without spherical harmonics."""
    values = np.linalg.norm(directions, axis=-1)
    niftis_to_pam(
        affine,
        directions / np.maximum(values, 1e-9)[..., None],
        values,
        np.zeros(values.shape, np.int32),
        sphere=default_sphere,
        pam_file=str(path),
    )


class Subject:
    """The files of one subject, and the tractogram that the command makes of them."""

    def __init__(self, folder):
        self.folder = folder
        self.phantom = crossing_phantom(90.0, shape=(20, 20, 10))
        affine = self.phantom.affine
        self.fodf = self.phantom.fodf(noise=0.05)
        self.mask = self.phantom.mask()
        self.pam = folder / "peaks.pam5"
        self.stopping = folder / "fa.nii.gz"
        self.seeding = folder / "seeds.nii.gz"
        write_pam(self.pam, self.fodf, affine)
        save_nifti(self.stopping, self.mask.astype(np.float32), affine)
        seeds = np.zeros(self.mask.shape, dtype=np.uint8)
        seeds[4:16:3, 9, 4:6] = 1
        save_nifti(self.seeding, seeds, affine)
        self.n_seeds = int(seeds.sum())

    @property
    def inputs(self):
        return [self.pam, self.stopping, self.seeding]

    def run(self, *options, inputs=None, out="out.trk", out_dir=None, grid=None):
        """Run the command in this process, and return the streamlines that it saves.

        `grid` is an image on the grid of the fODF, by default the stopping image.
        """
        out_dir = out_dir or self.folder / "out"
        command(
            *(inputs or self.inputs),
            "--out_dir",
            out_dir,
            "--out_tractogram",
            out,
            "--force",
            *options,
        )
        return load(out_dir / out, grid or (inputs or self.inputs)[1])


def command(*arguments):
    sys.argv = ["dipy_track_rnn", *map(str, arguments)]
    cli.track()


def load(path, reference):
    return load_tractogram(
        str(path), str(reference), bbox_valid_check=False
    ).streamlines


def refusal(*arguments):
    """Return the one-line error of the command."""
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    line = caught.value.code
    assert isinstance(line, str) and line.startswith("dipy_track_rnn: error: ")
    assert "\n" not in line and "please report" not in line
    return line
