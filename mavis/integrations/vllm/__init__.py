"""Guidance inside vLLM: `shared` values, read off the states that the engine computes anyway."""
