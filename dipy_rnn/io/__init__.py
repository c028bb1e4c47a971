"""Files: what the package reads and writes."""
