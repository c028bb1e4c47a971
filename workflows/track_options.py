"""The options of ``dipy_track_rnn``, checked and with their defaults resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from dipy_rnn._checks import check_least
from dipy_rnn.io import Files, check_sh_format
from dipy_rnn.pipeline import Seeding, plan_workers
from dipy_rnn.spatial import voxel_edge

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from dipy_rnn._typing import AnyArray, FloatArray
    from dipy_rnn.io import Batch
    from dipy_rnn.pipeline import Selected
    from dipy_rnn.sampling import FeatureVolume

STEP_SIZE = 0.5  # mm, by default
# Methods of tracking, and their short names in dipy_track.
_METHODS = {
    name: method
    for method, short in (("deterministic", "det"), ("probabilistic", "prob"))
    for name in (method, short)
}


@dataclass(frozen=True)
class TrackingOptions:
    """The options of :meth:`RNNTrackingFlow.run` that are the same for all subjects.

    Those that place seeds are in `seeding`.

    Raises
    ------
    ValueError
        If an option is out of range, or two options contradict each other.
    """

    seeding: Seeding
    use_binary_mask: bool
    stopping_thr: float
    act: bool
    cmc: bool
    gm_files: Files
    csf_files: Files
    keep_rejected: bool
    minlen: float
    maxlen: float
    step_size: float
    step_vox: float
    max_angle: float
    pmf_threshold: float
    max_cross: int
    unidirectional: bool
    include: Sequence[str]
    exclude: Sequence[str]
    stop_at_include: bool
    tracking_method: str
    temperature: float
    ended_thr: float
    lost_thr: float
    model_file: str
    sh_basis: str | None
    sh_frame: str
    save_seeds: bool
    save_stops: bool
    save_metrics: bool
    save_density: bool
    save_picture: bool
    downsample: int
    compress: float
    float16: bool
    nbr_threads: int
    device: str
    batch_size: int
    seed_buffer_fraction: float
    engine: str
    num_processes: int
    scheduler: str
    nbr_parts: int

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> TrackingOptions:
        """Make options from the arguments of :meth:`RNNTrackingFlow.run`, by name."""
        seeding = Seeding(
            **{f.name: arguments[f.name] for f in fields(Seeding) if f.init}
        )
        names = {f.name for f in fields(cls)} - {"seeding"}
        values = {name: arguments[name] for name in names}
        method = values["tracking_method"]
        if method.lower() not in _METHODS:
            raise ValueError(
                f"tracking_method is {method}; {', '.join(_METHODS)} are allowed."
            )
        values["tracking_method"] = _METHODS[method.lower()]
        return cls(seeding=seeding, **values)

    def __post_init__(self) -> None:
        check_sh_format(self.sh_basis, self.sh_frame)
        if self.act and self.cmc:
            raise ValueError("act and cmc are two criteria; give one of them.")
        for name, given in (
            ("gm_files", self.gm_files),
            ("csf_files", self.csf_files),
            ("keep_rejected", self.keep_rejected),
            ("seed_at_interface", self.seeding.seed_at_interface),
        ):
            if given and not self.is_constrained:
                raise ValueError(f"{name} is given, but needs act or cmc; add one.")
        if self.is_constrained and self.use_binary_mask:
            raise ValueError(
                "use_binary_mask is for binary masks, but act and cmc take tissue "
                "maps; leave it out."
            )
        if self.is_constrained and self.unidirectional:
            raise ValueError(
                "unidirectional streamlines have one tracked end, but act and cmc test "
                "both ends; leave it out."
            )
        if bool(self.gm_files) != bool(self.csf_files):
            raise ValueError(
                "gm_files and csf_files need each other; give both, or give an image "
                "of all tissues as stopping_files."
            )
        if self.stop_at_include and not self.include:
            raise ValueError(
                "stop_at_include is given, but needs include; add regions."
            )
        check_least("step_vox", self.step_vox, 0)
        if self.step_vox and self.step_size != STEP_SIZE:
            raise ValueError(
                f"step_size is {self.step_size:g} and step_vox {self.step_vox:g}; both "
                "set the step: give one of them."
            )
        check_least("downsample", self.downsample, 1)
        check_least("compress", self.compress, 0)
        check_least("nbr_parts", self.nbr_parts, 1)
        if self.nbr_parts > 1 and self.seeding.select:
            raise ValueError(
                "select and nbr_parts are given, but streamlines cannot be counted "
                "over parts that are tracked at the same time; leave one of them out."
            )

    @property
    def is_constrained(self) -> bool:
        """Whether tracking is constrained by tissue maps (ACT or CMC)."""
        return self.act or self.cmc

    @property
    def n_stopping_axes(self) -> int:
        """Number of axes of the stopping image: 4 if it holds all tissues."""
        return 4 if self.is_constrained and not self.gm_files else 3

    @property
    def is_local(self) -> bool:
        """Whether this process tracks the subjects, one after the other."""
        return self.engine == "serial" and not self.scheduler

    @property
    def tissue_files(self) -> dict[str, Files]:
        """The tissue maps, by the name of their option; empty if they are not given."""
        if not self.gm_files:
            return {}
        return {"gm_files": self.gm_files, "csf_files": self.csf_files}

    @property
    def regions(self) -> dict[str, Sequence[str]]:
        """Files and spheres, by the name of their option."""
        return {"include": self.include, "exclude": self.exclude}

    def step_mm(self, affine: FloatArray) -> float:
        """Return the step in mm on the grid of a subject.

        It is rounded to nanometres, as voxel sizes in NIfTI files are float32.
        """
        if not self.step_vox:
            return self.step_size
        return round(self.step_vox * voxel_edge(affine), 6)

    def for_parts(self) -> TrackingOptions:
        """Return the options for parts, which keep all points in full precision."""
        return replace(
            self,
            downsample=1,
            compress=0.0,
            float16=False,
            save_density=False,
            save_picture=False,
        )

    @property
    def data_types(self) -> dict[str, tuple[int, DTypeLike]]:
        """For each name, the number of values per streamline and their type."""
        types: dict[str, tuple[int, DTypeLike]] = {}
        if self.save_seeds:
            types["seeds"] = 3, np.float32
        if self.save_stops or self.save_metrics:
            types |= {"forward_stop": (1, np.uint8), "backward_stop": (1, np.uint8)}
        if self.save_metrics:
            from dipy_rnn.evaluation import METRICS

            types |= dict.fromkeys(METRICS, (1, np.float32))
        return types

    def with_values(
        self, blocks: Iterator[Selected], features: FeatureVolume, affine: FloatArray
    ) -> Iterator[Batch]:
        """Yield the streamlines of each block, and the values saved with them."""
        for block, seeds in blocks:
            values: dict[str, AnyArray] = {
                "seeds": seeds[block.index],
                "forward_stop": block.forward_stop,
                "backward_stop": block.backward_stop,
            }
            if self.save_metrics:
                from dipy_rnn.evaluation import streamline_metrics

                values |= streamline_metrics(
                    block.each(), features, affine, nbr_threads=self.nbr_threads
                )
            yield (
                block.points_mm.astype(np.float32),
                block.n_points,
                {
                    name: values[name].reshape(-1, width)
                    for name, (width, _) in self.data_types.items()
                },
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the saved coordinates."""
        return np.dtype(np.float16 if self.float16 else np.float32)

    def resolve(self) -> TrackingOptions:
        """Set the numbers of processes and threads, and the path of the model.

        For processes in other folders, the path becomes absolute.
        """
        from dipy_rnn.model import shipped_models

        n_processes, n_threads = plan_workers(
            self.engine, self.num_processes, self.scheduler, self.nbr_threads
        )
        model_file = self.model_file
        if not self.is_local and model_file not in shipped_models():
            model_file = os.path.abspath(model_file)
        return replace(
            self,
            num_processes=n_processes,
            nbr_threads=n_threads,
            model_file=model_file,
        )
