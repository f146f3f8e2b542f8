import subprocess
import sys


def test_the_room_needs_neither_torch_nor_a_workflow_engine():
    modules = "selection criteria errors plausibility sampling.seeds uncertainty.committee uncertainty.calibration"
    code = f"""
import importlib, sys
for name in {modules.split()!r}:
    importlib.import_module("fieldloop.active_learning." + name)
print(sorted({{"torch", "jobflow", "maggma", "e3nn"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
