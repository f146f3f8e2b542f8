import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def synthetic():
    import synthetic_vasp

    return synthetic_vasp


@pytest.fixture(scope="session")
def data():
    return Path(__file__).parents[2] / "data" / "vasp"


@pytest.fixture
def runs(synthetic, tmp_path):
    """Write the runs of a stencil."""

    def write(stencil, crystal=None, faults=None, xml=True):
        crystal = crystal or synthetic.Crystal()
        points = stencil.points().items()
        return {name: synthetic.write_run(tmp_path / name, crystal, field, faults, xml=xml) for name, field in points}

    return write
