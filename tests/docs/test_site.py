"""The pages build into a site without a warning, each is found in it, and what the reference names is there."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = sorted((DOCS / "reference").glob("*.md"))


def pages_of(navigation) -> list[str]:
    if isinstance(navigation, str):
        return [navigation]
    parts = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for part in parts for page in pages_of(part)]


def test_every_page_is_in_the_navigation_once():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if ".package" not in path.parts]
    assert sorted(pages_of(navigation)) == sorted(pages)


def test_the_pages_build_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "model.html").read_text()
    assert 'id="fieldloop.model.files.load_model"' in page
    assert "index [atom, field a, displacement b]" in page


@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.stem)
def test_what_the_reference_names_can_be_imported(page):
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
        if ".torchsim." not in name or find_spec("torch_sim") is not None:
            module, _, attribute = name.rpartition(".")
            assert callable(resolve_name(f"{module}:{attribute}")), name
