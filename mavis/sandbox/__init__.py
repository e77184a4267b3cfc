"""The embedded default: a tiny language model, its rewards and prompts, and what makes them."""
