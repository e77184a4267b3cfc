"""How good a policy is: scored samples, their metrics, intervals and Pareto indicators."""
