"""The commands. The library never imports them."""

import os

# By default OpenMP threads use the processor while they wait. If other programs use the
# same cores, as on a cluster, that can take many times longer than the work itself.
# OpenMP reads this variable when it is loaded, so it is set before any other import.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
