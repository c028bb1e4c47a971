"""Groups of slots: a slot holds one streamline, and all slots advance together."""
