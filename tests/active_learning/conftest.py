import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.records import Frame


@pytest.fixture
def alas() -> Frame:
    """Zincblende AlAs, 8 atoms."""
    return Frame.from_atoms(bulk("AlAs", "zincblende", a=5.66, cubic=True))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
