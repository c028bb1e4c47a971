"""What pyproject.toml cannot say: the compiled kernels and where workflows lives."""

import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

if sys.platform == "win32":
    compile_args, link_args = ["/O2", "/openmp"], []
elif sys.platform == "darwin":  # Apple's clang has no OpenMP: one thread
    compile_args, link_args = ["-O3"], []
else:
    compile_args, link_args = ["-O3", "-fopenmp"], ["-fopenmp"]

setup(
    ext_modules=cythonize(
        Extension(
            "dipy_rnn._interp",
            ["dipy_rnn/_interp.pyx"],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ),
    packages=["dipy_rnn", "dipy_rnn.models", "dipy_rnn.training", "dipy_rnn.workflows"],
    package_dir={"dipy_rnn.workflows": "workflows"},
)
