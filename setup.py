"""Settings that pyproject.toml cannot hold: compiled kernels, place of workflows."""

import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

if sys.platform == "win32":
    plain, fast, openmp = ["/O2"], [], ["/openmp"]
elif sys.platform == "darwin":  # Apple's clang has no OpenMP: one thread
    plain, fast, openmp = ["-O3"], ["-fno-math-errno", "-fno-trapping-math"], []
else:
    plain, fast = ["-O3"], ["-fno-math-errno", "-fno-trapping-math"]
    openmp = ["-fopenmp"]
# Compile as ISO C, like DIPY. Otherwise GCC can fuse a * b + c, and the criteria no
# longer agree with DIPY's to the last digit.
exact = [] if sys.platform == "win32" else ["-std=c99"]
linked = [] if sys.platform == "win32" else openmp
# One wheel for each system serves Python 3.11 and later (abi3). The kernels need hardly
# more of Python than buffers, which are in the stable ABI since 3.11. The stable ABI
# does not make them slower (CPU time, minimum of three runs: sampling and rotation at
# 20000 points takes 7.8 ms, and 9.8 ms without it; tracking of 400 seeds of a phantom
# takes 0.36 s, and 0.40 s without it). Python without a GIL has no stable ABI.
abi3 = not sysconfig.get_config_var("Py_GIL_DISABLED")


def kernels(name, compile_args, link_args):
    """Return the description of one compiled module."""
    return Extension(
        f"dipy_rnn.{name}",
        [f"dipy_rnn/{name.replace('.', '/')}.pyx"],
        depends=["dipy_rnn/_headers/_lanes.h", "dipy_rnn/_headers/_rows.h"],
        include_dirs=["dipy_rnn/_headers"],
        extra_compile_args=plain + compile_args,
        extra_link_args=link_args,
        define_macros=[("Py_LIMITED_API", "0x030B0000")] if abi3 else [],
        py_limited_api=abi3,
    )


setup(
    ext_modules=cythonize(
        [
            kernels("_interp", fast + openmp, linked),
            kernels("draws._draws", exact, []),
            kernels("sampling._cone", fast, []),
            kernels("sampling.fodf._convert", fast, []),
            kernels("sampling.peaks._maxima", fast + openmp, linked),
            kernels("model.kernels._layers", fast, []),
            kernels("model.kernels._moving_frame", fast, []),
            kernels("model.kernels._context_parts", fast, []),
            kernels("model.kernels._context_gru", fast, []),
            kernels("stopping._criteria", exact, []),
            kernels("tracking.slots._compiled", fast, []),
        ]
    ),
    packages=[*find_packages(include=["dipy_rnn", "dipy_rnn.*"]), "dipy_rnn.workflows"],
    package_dir={"dipy_rnn.workflows": "workflows"},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if abi3 else {},
)
