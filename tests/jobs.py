"""A job for the processes of an engine, which import only this module."""

import os
import signal


def double(job):
    if job == "wrong":
        raise ValueError("it is wrong")
    if job == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * job
