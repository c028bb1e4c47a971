"""FODFs: of peaks, and whether coefficients are one, and in which basis."""
