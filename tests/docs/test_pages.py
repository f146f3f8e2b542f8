"""Every block of these pages runs as it stands there."""

from pathlib import Path

import numpy as np
import pytest
from fieldloop.dft_inputs.units import VACUUM_PERMITTIVITY

DOCS = Path(__file__).parents[2] / "docs"


def test_the_tutorial_ends_in_a_loop(page_runner):
    """From a crystal to P(E), by DFT, training and dynamics: a line in a slow field, an ellipse in a fast one."""
    assert page_runner.run(DOCS / "tutorial.md") == 12
    names = page_runner.names
    slow, fast = names["slow"], names["fast"]
    assert np.corrcoef(*slow)[0, 1] > 0.99
    # The crystal takes up work from the field where it lags behind it.
    assert names["area"](*fast) > 20 * abs(names["area"](*slow))
    assert 5 < 1 + names["slope"] / VACUUM_PERMITTIVITY < 9  # Z*^2/k adds 2 to the 5.4 of this mesh
    assert (page_runner.folder / "loop.png").stat().st_size > 10_000


@pytest.mark.parametrize(("page", "blocks"), [("lammps.md", 10), ("ase.md", 5), ("ipi.md", 1), ("atomate2.md", 2)])
def test_the_blocks_of_a_page_run(page_runner, page, blocks):
    assert page_runner.run(DOCS / page) == blocks
