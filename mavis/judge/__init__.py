"""A language model as the judge of two sets of answers."""
