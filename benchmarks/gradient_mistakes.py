"""Wrong gradients and wrong options: ``python benchmarks/gradient_mistakes.py HEAD``.

HEAD is a folder with dwi.nii.gz, dwi.bval, dwi.bvec, mask.nii.gz and fa.nii.gz, whose
gradients are right. Its fODF is fitted once and saved in ``--work``. Then the gradients
are given each of the 24 orders and signs of their axes (or the first ``--cases`` of
them), the fODF is written as MRtrix3 does (basis tournier07, scanner axes), and is read
with four sets of options: the right ones, none, and each of the two alone. Each time
``check_gradients`` says what is wrong. With ``--tilt``, the head is tilted by this
number of degrees, so that scanner axes are not voxel axes up to their signs.

One line is printed for each run. Its verdict is one of

* ``right``: the only advice is the change that is needed;
* ``open``: this change is named, and the verdict says that others are possible;
* ``no answer``: there is no advice;
* ``HARM``: it advises to change gradients that are right, or options that are right,
  and does not name the change that is needed.
* ``other``: any other advice. Following it gives the same fODF as the needed change,
  or the advice is wrong about gradients and options that are both wrong.

``--programs`` names who is asked: ``check`` (the default), and gradlint and MRtrix3's
dwigradcheck, about the same gradients. The last two read the diffusion-weighted images,
so options of the fODF do not matter to them.

Many of the runs are of the same fODF along the voxel axes. It is tracked once.
"""

import argparse
from dataclasses import replace
from pathlib import Path
import re
import subprocess
import tempfile
import time

from dipy.io.image import load_nifti
from dipy.io.peaks import load_pam
from dipy.tracking.utils import random_seeds_from_mask
import numpy as np
from real_data import SEED_THR, STOPPING_THR, prepare

from dipy_rnn.gradient_check import AXIS_CASES, GIVEN, check_gradients, reoriented
from dipy_rnn.gradient_check import check as check_module
from dipy_rnn.gradient_check.cases import reread
from dipy_rnn.sampling import SHFormat, pam_features
from dipy_rnn.stopping import ThresholdStoppingCriterion
from dipy_rnn.tracking import track

RIGHT = SHFormat("tournier07", "scanner")
READ_AS = {  # name of the mistake: format in which the coefficients are read
    "right options": RIGHT,
    "no options": SHFormat("descoteaux07_legacy", "voxel"),
    "only --sh_basis": SHFormat("tournier07", "voxel"),
    "only --sh_frame": SHFormat("descoteaux07_legacy", "scanner"),
}
PROGRAMS = ("check", "gradlint", "dwigradcheck")
BVEC_FLIP = np.diag([-1.0, 1, 1])  # image to scanner axes of a grid stored as LAS


def remembering(voxels):
    """Return a `track` that tracks each fODF, as known by some voxels, only once."""
    found = {}

    def remembered(seeds, criterion, affine, *, features, **options):
        key = len(seeds), features.data[voxels].round(2).tobytes()
        if key not in found:
            found[key] = list(
                track(seeds, criterion, affine, features=features, **options)
            )
        return found[key]

    return remembered


def tilted(affine, degrees):
    """Return the affine of a head that is tilted about an oblique axis."""
    axis = np.array([1.0, 2, 3]) / np.sqrt(14)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn @ affine


def undoing(case):
    """Return the case that undoes another one."""
    product = {n: abs(np.trace(m @ AXIS_CASES[case])) for n, m in AXIS_CASES.items()}
    return max(product, key=product.get)


def flags_needed(given):
    """Return the options that turn a format into the right one."""
    flags = f"--sh_basis {RIGHT.basis}" * (given.basis != RIGHT.basis)
    flags += f" --sh_frame {RIGHT.frame}" * (given.frame != RIGHT.frame)
    return flags.strip()


def judged(check, case, given):
    """Return the verdict of the benchmark about one check."""
    needed = flags_needed(given), undoing(case)
    advised = [(row.flags, row.case) for row in check.rows if row.is_candidate]
    if ("", GIVEN) in advised:
        if any(not flags and case != GIVEN for flags, case in advised):
            return "no answer"
        if needed == ("", GIVEN):
            return "right"
        return "open" if needed in advised else "HARM"
    if needed in advised:
        return "right" if len(advised) == 1 else "open"
    spares_gradients = any(case == GIVEN for _, case in advised)
    spares_options = any(flags == "" for flags, _ in advised)
    if (needed[1] == GIVEN and not spares_gradients) or (
        needed[0] == "" and not spares_options
    ):
        return "HARM"
    return "other"


def corrects(matrix, case):
    """Tell whether a matrix undoes a case, up to the sign of all gradients."""
    return abs(np.trace(matrix @ AXIS_CASES[case])) == 3


def from_names(names):
    """Return the matrix of names such as ("x", "-z", "y")."""
    matrix = np.zeros((3, 3))
    for row, name in enumerate(names):
        matrix[row, "xyz".index(name[-1])] = -1 if name[0] == "-" else 1
    return matrix


def run(*command):
    """Run a program; return its output, and its seconds."""
    start = time.perf_counter()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return done.stdout + done.stderr, time.perf_counter() - start


def ask_others(head, white_matter, case, programs, n_tracks):
    """Print what other programs say about the gradients of one case; return verdicts.

    `programs` holds the path of each program by its name.
    """
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        bvec = Path(folder) / "dwi.bvec"
        np.savetxt(bvec, AXIS_CASES[case] @ np.loadtxt(head / "dwi.bvec"), "%.7f")
        dwi, bval, mask = (
            head / name for name in ("dwi.nii.gz", "dwi.bval", "mask.nii.gz")
        )
        if "gradlint" in programs:
            text, seconds = run(
                *(programs["gradlint"], "detect-flip", "--dwi", dwi, "--bvec", bvec),
                *("--bval", bval, "--mask", white_matter),
            )
            line = next(row for row in text.splitlines() if row.startswith("flip:"))
            names = re.search(r"best ([+-]?[xyz])([+-]?[xyz])([+-]?[xyz])", line)
            found = from_names([name.lstrip("+") for name in names.groups()])
            said = "right" if corrects(found, case) else "HARM"
            verdicts.append(f"{said} (gradlint)")
            print(
                f"    gradlint      {said:9} {seconds:5.0f} s  {line[6:]}", flush=True
            )
        if "dwigradcheck" in programs:
            text, seconds = run(
                *(programs["dwigradcheck"], dwi, "-fslgrad", bvec, bval, "-mask", mask),
                *("-number", n_tracks, "-scratch", folder, "-nthreads", 1),
            )
            rows = re.findall(
                r"([\d.]+)\s+(none|\d)\s+\((\d), (\d), (\d)\)\s+(\w+)", text
            )
            length, flip, *order, basis = rows[0]
            found = np.eye(3)
            if flip != "none":
                found[int(flip), int(flip)] = -1
            found = found[[int(axis) for axis in order]]
            if basis == "scanner":
                found = BVEC_FLIP @ found @ BVEC_FLIP
            said = "right" if corrects(found, case) else "HARM"
            verdicts.append(f"{said} (dwigradcheck)")
            print(
                f"    dwigradcheck  {said:9} {seconds:5.0f} s  {length} mm, "
                f"flip {flip}, order {' '.join(order)}, {basis}; next {rows[1][0]} mm",
                flush=True,
            )
    return verdicts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("head", type=Path)
    parser.add_argument("--work", type=Path, default=Path("gradient_mistakes"))
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--step", type=float, default=1.0)
    parser.add_argument("--tilt", type=float, default=0.0)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS[:1])
    parser.add_argument("--gradlint", default="gradlint", help="path of the program")
    parser.add_argument("--n_tracks", type=int, default=10000, help="of dwigradcheck")
    options = parser.parse_args()

    fa, affine = prepare(options.head, options.work)
    affine = tilted(load_nifti(options.head / "fa.nii.gz")[1], options.tilt)
    features = pam_features(load_pam(options.work / "peaks.pam5"))
    seeds = random_seeds_from_mask(
        fa > SEED_THR,
        affine,
        seeds_count=options.seeds,
        seed_count_per_voxel=False,
        random_seed=1,
    )
    criterion = ThresholdStoppingCriterion(fa, STOPPING_THR)
    programs = {"gradlint": options.gradlint, "dwigradcheck": "dwigradcheck"}
    programs = {name: programs[name] for name in options.programs if name in programs}
    print(
        f"{options.head.name}, tilted by {options.tilt:g} degrees, {len(seeds)} seeds"
    )
    sharpest = np.argsort(np.square(features.data[..., 1:6]).sum(axis=3), axis=None)
    voxels = np.unravel_index(sharpest[-20:], fa.shape)
    check_module.track = remembering(voxels)
    counts = {}
    for case in list(AXIS_CASES)[: options.cases]:
        print(f"gradients {case}", flush=True)
        verdicts = []
        if "check" in options.programs:
            # A file in the right format has these features. It is read in another one.
            wrong = replace(reoriented(features, case), sh_format=RIGHT)
            for mistake, given in READ_AS.items():
                read = reread(wrong, given, affine)
                check = check_gradients(
                    read, criterion, seeds, affine, step_size=options.step
                )
                verdicts.append(judged(check, case, given))
                print(f"    {mistake:15} {verdicts[-1]:9} {check.verdict}", flush=True)
        white_matter = options.work / "seeds.nii.gz"
        verdicts += ask_others(
            options.head, white_matter, case, programs, options.n_tracks
        )
        for verdict in verdicts:
            counts[verdict] = counts.get(verdict, 0) + 1
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


if __name__ == "__main__":
    main()
