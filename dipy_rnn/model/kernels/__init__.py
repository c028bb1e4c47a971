"""Networks as kernels (compiled functions), from points to directions."""
