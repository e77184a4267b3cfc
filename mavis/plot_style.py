"""What all pictures have in common: size, colours, axes, and how they are saved.

Pictures touch neither the screen nor matplotlib's global state. The colours are those of Okabe and
Ito (2008), which stay apart for colour-blind readers; no two kinds of mark differ by colour alone.
"""

from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLACK, GREY, ORANGE, BLUE = "#000000", "#7f7f7f", "#d55e00", "#0072b2"
WIDTH, DPI = 7.2, 150  # inches: the text width of a page
LETTERS = 60  # of a title's line, which then fits the width
UNITS = "standard units"  # 0 and 1 are mean and standard deviation of the reference's rewards


def name_axes(axes: Axes, title: str, across: str = "", size: int = 12) -> None:
    """Give axes a title and a name for what runs across, and a quiet look."""
    lines = [fill(line, LETTERS) for line in title.splitlines()]
    axes.set_title("\n".join(lines), loc="left", fontsize=size)
    axes.set_xlabel(across)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6")
    axes.set_axisbelow(True)


def save(path: Path, figure: Figure) -> Path:
    """Save a figure as a PNG; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, format="png")
    return path
