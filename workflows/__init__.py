"""The commands: shells around the library, which never imports them."""

import os

# By default the threads of OpenMP spin while they wait. Where other programs want the
# cores too, as on a cluster, that costs many times the work itself. It is read when
# the first library with OpenMP is loaded, so before the commands import any.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
