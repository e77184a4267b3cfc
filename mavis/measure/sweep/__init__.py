"""Methods, weightings and strengths over one ground."""
