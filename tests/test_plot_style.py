"""Pictures are PNG files as wide as a page, wherever they are saved."""

import struct
from itertools import pairwise

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mavis.plot_style import BLACK, BLUE, DPI, GREY, ORANGE, WIDTH, name_axes, save


def test_a_picture_is_saved_in_a_new_folder(tmp_path):
    path = save(tmp_path / "new" / "picture.png", Figure(figsize=(WIDTH, 2.0)))
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert struct.unpack(">II", header[16:]) == (int(WIDTH * DPI), 2 * DPI)


def test_axes_are_named():
    axes = Figure().subplots()
    name_axes(axes, "reward", "KL")
    assert (axes.get_title(loc="left"), axes.get_xlabel()) == ("reward", "KL")
    assert not axes.spines["top"].get_visible()
    assert axes.spines["left"].get_visible()


def test_colours_differ_in_grey_too():
    shades = sorted(sum(to_rgb(colour)) for colour in (BLACK, GREY, ORANGE, BLUE))
    assert min(b - a for a, b in pairwise(shades)) > 0.05
