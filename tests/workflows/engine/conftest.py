"""Flows run in real worker processes, which import the job functions of ``flow_jobs`` by name."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))


@pytest.fixture
def start_python() -> Iterator:
    """Start Python programs beside the test, given as text; those still running are killed at the end."""
    started: list[subprocess.Popen] = []

    def start(program: str, *arguments: object) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-c", program, *map(str, arguments)]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
