"""Models that ship in the wheel; default.md is the card of the default one."""
