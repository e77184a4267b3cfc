"""What points come to: fronts, indicators, intervals, standings."""
