"""Files that are given as images, and are in another format: what they are."""

import os
from pathlib import Path

from dipy_rnn.io.files import GZIP, SUFFIXES, shown

# Files of these programs or formats, by suffix: what they are, and what to do.
_CONVERT = "convert it to NIfTI (3D Slicer, ITK-SNAP or mrconvert can)"
_DICOM = "a DICOM file", "convert the series to NIfTI with dcm2niix"
_BY_SUFFIX = {
    **dict.fromkeys((".nrrd", ".nhdr"), ("an image in NRRD format", _CONVERT)),
    **dict.fromkeys((".mha", ".mhd"), ("an image in MetaImage format", _CONVERT)),
    **dict.fromkeys((".dcm", ".ima"), _DICOM),
    **dict.fromkeys(
        (".gii", ".annot"), ("a surface", "give an image of voxels (NIfTI)")
    ),
    ".zst": ("compressed by zstd", "decompress it with zstd -d"),
    ".xz": ("compressed by xz", "decompress it with xz -d"),
    ".zip": ("a zip archive", "unpack it with unzip"),
    ".npy": ("an array without an affine", "save it with nibabel as NIfTI"),
    ".npz": ("an archive of arrays without an affine", "save it with nibabel as NIfTI"),
    **dict.fromkeys(SUFFIXES, ("a tractogram, not an image", "give an image (NIfTI)")),
    ".fib": (
        "a tractogram in VTK format or a file of DSI Studio, not an image",
        "export the image as NIfTI",
    ),
}
# The same by the first bytes of a file with another suffix.
_BY_START = {
    b"\x89HDF": (
        "an HDF5 file",
        "rename it to .pam5 if dipy_fit_csd wrote it, else convert it to NIfTI",
    ),
    b"NRRD": _BY_SUFFIX[".nrrd"],
    b"mrtrix image": ("an image of MRtrix3", "convert it with mrconvert"),
    b"\x28\xb5\x2f\xfd": _BY_SUFFIX[".zst"],
    b"\xfd7zXZ": _BY_SUFFIX[".xz"],
    b"PK\x03\x04": _BY_SUFFIX[".zip"],
    b"TRACK": _BY_SUFFIX[".trk"],
    b"mrtrix tracks": _BY_SUFFIX[".tck"],
}


def check_is_image(path: Path) -> None:
    """Raise ValueError for a file in a known format that is not read as an image.

    Parameters
    ----------
    path : Path
        An existing file. Unknown formats, and files that may not be read, are left to
        nibabel.

    Raises
    ------
    ValueError
        If the format is known by the suffix or by the first bytes. If the file is
        empty. If a ``.nii`` file is compressed, or a ``.gz`` file is not. The error
        says what to do.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "fa.nrrd"
    >>> _ = path.write_text("NRRD0004")
    >>> check_is_image(path)
    Traceback (most recent call last):
    ValueError: ...fa.nrrd is an image in NRRD format; convert it to NIfTI ...
    """
    if not os.access(path, os.R_OK):
        return
    with path.open("rb") as file:
        start = file.read(max(map(len, _BY_START)))
    name, lower = shown(path), path.name.lower()
    for suffix, (what, remedy) in _BY_SUFFIX.items():
        if lower.endswith(suffix):
            raise ValueError(f"{name} is {what}; {remedy}.")
    if not start:
        raise ValueError(f"{name} is empty; make or copy it again.")
    for begin, (what, remedy) in _BY_START.items():
        if start.startswith(begin):
            raise ValueError(f"{name} is {what}; {remedy}.")
    is_compressed = start.startswith(GZIP)
    if is_compressed and lower.endswith((".nii", ".img", ".hdr")):
        raise ValueError(f"{name} is compressed by gzip; rename it to {name}.gz.")
    if lower.endswith((".nii.gz", ".img.gz", ".mgz")) and not is_compressed:
        raise ValueError(
            f"{name} is not compressed by gzip, as its suffix says; give it the suffix "
            "of its format (.nii for NIfTI), or make or copy it again."
        )
