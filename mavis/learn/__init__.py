"""Improve: rollout trees, soft targets, packed batches, and the rounds of a fit."""
