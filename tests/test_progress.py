"""Bars of our own show; those of libraries do not stand between our lines, and come back."""

import os
import subprocess
import sys

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging

from mavis.progress import without_bars

LOADS = """
import sys
import mavis
from mavis.decoding.value_model import ValueModel
from transformers.utils import logging

policy = mavis.load({"trial": sys.argv[1]})
policy.guides[0].save_pretrained(__import__("pathlib").Path(sys.argv[2]))
assert logging.is_progress_bar_enabled()
"""


def test_loading_and_saving_draw_no_bars(tiny_fit, tmp_path):
    """In a process of its own: there bars are on, as transformers has them."""
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_PROGRESS_BARS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    words = [sys.executable, "-c", LOADS, str(tiny_fit / "value"), str(tmp_path / "value")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_user_set_stays():
    before = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    with without_bars():
        assert not logging.is_progress_bar_enabled()
    assert (logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == before
    with pytest.raises(KeyError), without_bars():
        raise KeyError
    assert (logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == before
