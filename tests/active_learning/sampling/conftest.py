from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read
from fieldloop.dft_inputs.records import Frame

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def alas() -> Frame:
    """Zincblende AlAs, 8 atoms."""
    return Frame.from_atoms(bulk("AlAs", "zincblende", a=5.66, cubic=True))


@pytest.fixture(scope="session")
def quartz() -> Frame:
    """Alpha-quartz, 72 atoms, a frame of published dynamics at 300 K."""
    return Frame.from_atoms(read(DATA / "allegro_pol" / "SiO2_300K.xyz"))


@pytest.fixture
def batio3() -> Frame:
    """Tetragonal BaTiO3, 5 atoms, P along +z; Kwei et al., J. Phys. Chem. 97, 2368 (1993), 280 K."""
    places = [[0, 0, 0], [0.5, 0.5, 0.5224], [0.5, 0.5, -0.0244], [0.5, 0, 0.4895], [0, 0.5, 0.4895]]
    return Frame.from_atoms(Atoms("BaTiO3", scaled_positions=places, cell=np.diag([3.9970, 3.9970, 4.0314]), pbc=True))
