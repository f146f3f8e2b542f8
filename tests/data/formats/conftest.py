from pathlib import Path

import pytest
from fieldloop.dft_inputs.formats import read_extxyz

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="session")
def data():
    return DATA


@pytest.fixture(scope="session")
def published():
    """A published frame of quartz with every label."""
    (labelled,) = read_extxyz(DATA / "allegro_pol" / "SiO2_300K.xyz", "allegro-pol")
    return labelled
