"""DOORS into other people's loops: guidance where somebody else decodes."""
