"""Documentation pages as programs: their fenced blocks, run from top to bottom in one folder.

A block whose first line is ``# NAME`` with NAME a file name is written to that file; ``bash`` blocks are run by bash,
``python`` blocks one after the other in one namespace. Other blocks are only read by people.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "data" / "models" / "alas"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (in\.\w+|[\w-]+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line that it begins in."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in _BLOCK.finditer(text)]


class PageRunner:
    """A folder with the folders of the repository that pages name, and a model, ``trained``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(MODEL, folder / "trained")
        shutil.copytree(ROOT / "examples", folder / "examples")
        self.names: dict[str, object] = {"__name__": "__page__"}

    def run(self, page: Path) -> int:
        """Run all blocks; how many there were to run or write."""
        return sum(self._run(page, block) for block in blocks_of(page))

    def _run(self, page: Path, block: Block) -> bool:
        if (named := _FILE.match(block.text)) is not None:
            (self.folder / named[1]).write_text(block.text)
        elif block.language == "bash":
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=self.folder,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            assert done.returncode == 0, f"{page.name}, line {block.line}:\n{done.stdout}\n{done.stderr}"
        elif block.language == "python":
            # Padded, so that a traceback names the line of the page.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), self.names)
        else:
            return False
        return True


@pytest.fixture
def page_runner(tmp_path, monkeypatch) -> PageRunner:
    monkeypatch.chdir(tmp_path)
    return PageRunner(tmp_path)
