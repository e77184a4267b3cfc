"""Sweeps over preferences and strengths, and the comparison of all methods at equal KL."""
