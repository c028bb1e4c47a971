"""What pyproject.toml cannot say: the compiled kernels and where workflows lives."""

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
# ISO C, as DIPY is compiled: else GCC may fuse a * b + c, and criteria that agree with
# DIPY's to the last digit would no longer do so.
exact = [] if sys.platform == "win32" else ["-std=c99"]
linked = [] if sys.platform == "win32" else openmp
# One wheel of a system serves Python 3.11 and all later ones (abi3): of Python the
# kernels need little but buffers, in the stable ABI since 3.11, and they are no slower
# for it (CPU time, least of three: 20000 points sampled and turned in 7.8 ms, else 9.8;
# 400 seeds of a phantom tracked in 0.36 s, else 0.40). Python without a GIL has none.
abi3 = not sysconfig.get_config_var("Py_GIL_DISABLED")


def kernels(name, compile_args, link_args):
    """Describe one of the compiled modules."""
    return Extension(
        f"dipy_rnn.{name}",
        [f"dipy_rnn/{name.replace('.', '/')}.pyx"],
        depends=["dipy_rnn/model/_lanes.h"],
        extra_compile_args=plain + compile_args,
        extra_link_args=link_args,
        define_macros=[("Py_LIMITED_API", "0x030B0000")] if abi3 else [],
        py_limited_api=abi3,
    )


setup(
    ext_modules=cythonize(
        [
            kernels("_interp", fast + openmp, linked),
            kernels("model._moving_frame", fast, []),
            kernels("stopping._criteria", exact, []),
            kernels("tracking._slots", fast, []),
        ]
    ),
    packages=[*find_packages(include=["dipy_rnn", "dipy_rnn.*"]), "dipy_rnn.workflows"],
    package_dir={"dipy_rnn.workflows": "workflows"},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if abi3 else {},
)
