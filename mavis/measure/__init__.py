"""Compare: fronts, their indicators and intervals, rivals, and sweeps over weightings."""
