"""From seeds to selected streamlines, for one subject or for many in parallel."""

from dipy_rnn.pipeline.parallel import ENGINES, plan_workers, run_jobs
from dipy_rnn.pipeline.regions import Regions
from dipy_rnn.pipeline.seeding import Seeding, interface_seeds, slice_batches
from dipy_rnn.pipeline.selection import (
    Selected,
    TrackingCounts,
    select_blocks,
    show_progress,
    track_selected,
)

__all__ = [
    "ENGINES",
    "Regions",
    "Seeding",
    "Selected",
    "TrackingCounts",
    "interface_seeds",
    "plan_workers",
    "run_jobs",
    "select_blocks",
    "show_progress",
    "slice_batches",
    "track_selected",
]
