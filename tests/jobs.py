"""A function for processes of others, which import nothing else for it."""

import os
import signal


def double(job):
    if job == "wrong":
        raise ValueError("it is wrong")
    if job == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * job
