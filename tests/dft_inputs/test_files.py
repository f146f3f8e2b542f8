"""Files are whole or absent."""

import signal
import subprocess
import sys
import time

import pytest
from fieldloop.dft_inputs.files import replacing, write_atomically


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, "old, with ü")
    with pytest.raises(ZeroDivisionError), replacing(path) as handle:
        handle.write(b"new")
        _ = 1 / 0
    assert path.read_text(encoding="utf-8") == "old, with ü"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")
    script = (
        "import os, pathlib, sys\n"
        "from fieldloop.dft_inputs.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as handle:\n"
        "    handle.write(b'new')\n"
        "    handle.flush()\n"
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_child_ends_with_its_parent(tmp_path):
    """The parent is killed, so that it can tell nobody; its child is gone at once (Linux)."""
    child = (
        "import os, time\n"
        "from fieldloop.dft_inputs.processes import die_with_parent\n"
        "die_with_parent(os.getppid())\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip().isdigit()
        process.kill()
        began = time.monotonic()
        assert process.stdout.read() == ""  # the pipe closes when nobody holds it any more
    assert time.monotonic() - began < 30
