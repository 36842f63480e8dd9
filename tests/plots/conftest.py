"""Plots in matplotlib's own style, whatever tests before these have set."""

import matplotlib
import pytest


@pytest.fixture(autouse=True)
def default_style():
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
