"""Iterative soft policy improvement: rollout trees, soft targets, the rounds of a fit."""
