"""Methods at equal KL: sweeps over preferences and strengths, and what they come to."""
