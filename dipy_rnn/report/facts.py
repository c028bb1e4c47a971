"""Facts about a comparison that its report lists: software, computer and model."""

from hashlib import sha256
from importlib import metadata
import os
import platform

from dipy_rnn._threads import count_threads
from dipy_rnn.model import Model, model_path

_PACKAGES = ("dipy_rnn", "dipy", "torch", "numpy", "scipy", "nibabel", "plotly")


def machine_facts(nbr_threads: int) -> dict[str, dict[str, str | int | None]]:
    """Return what a report says about the software and the computer.

    Parameters
    ----------
    nbr_threads : int
        0 for every core.

    Returns
    -------
    facts : dict of str to dict
        ``"versions"`` of Python and of packages, and ``"machine"``: system, number of
        cores and number of threads.

    Examples
    --------
    >>> machine_facts(2)["machine"]["threads"]
    2
    """
    versions: dict[str, str | int | None] = {
        name: metadata.version(name) for name in _PACKAGES
    }
    return {
        "versions": {"python": platform.python_version()} | versions,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "threads": count_threads(nbr_threads),
        },
    }


def model_facts(model: Model) -> dict[str, str | int | None]:
    """Return what a report says about a model.

    Parameters
    ----------
    model : dipy_rnn.model.Model
        Loaded from a file.

    Returns
    -------
    facts : dict of str to str, int or None
        Name, SHA-256 of the file, architecture, number of parameters, frame, orders of
        the spherical harmonics, step sizes, training data and versions of the packages
        used for training. None if the metadata does not contain the value.

    Examples
    --------
    >>> from dipy_rnn import load_model
    >>> model_facts(load_model("fast"))["architecture"]
    'context'
    """
    about = model.metadata
    provenance = about.provenance
    versions = provenance.get("versions", {}).items()
    return {
        "name": model.name,
        "sha256": sha256(model_path(model.name).read_bytes()).hexdigest(),
        "architecture": about.architecture or "a network of its own",
        "parameters": provenance.get("parameters"),
        "frame": about.frame,
        "orders": ", ".join(map(str, about.orders)) or None,
        "steps": (
            "{:g} to {:g} mm".format(*about.step_mm)
            if about.inputs is None
            else "{:g} to {:g} voxel edges".format(*about.step_vox)
        ),
        "trained on": provenance.get("data"),
        "with": ", ".join(f"{name} {version}" for name, version in versions) or None,
    }
