"""Groups of slots. A slot holds one streamline. The slots advance together."""
