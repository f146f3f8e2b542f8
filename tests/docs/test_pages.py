"""Every block of these pages runs as it stands there."""

from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "blocks"), [("lammps.md", 9), ("ase.md", 5), ("ipi.md", 1), ("atomate2.md", 2)])
def test_the_blocks_of_a_page_run(page_runner, page, blocks):
    assert page_runner.run(DOCS / page) == blocks
