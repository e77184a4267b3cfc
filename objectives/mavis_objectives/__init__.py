"""The objectives that `mavis` is shipped with: plugins like any other, one file each."""

from pathlib import Path

INSTRUCTIONS = str(Path(__file__).parent / "instructions")  # prompts by others: its README.md
