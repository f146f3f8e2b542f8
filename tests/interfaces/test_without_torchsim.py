"""Where TorchSim is missing, its adapter says so, and nothing else needs it."""

import importlib
import sys

import pytest


def test_the_adapter_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch_sim.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    monkeypatch.delitem(sys.modules, "fieldloop.model.interfaces.torchsim", raising=False)
    importlib.import_module("fieldloop.model.interfaces.ase")
    with pytest.raises(ImportError, match=r"torch-sim-atomistic>=0.6' under Python 3.12"):
        importlib.import_module("fieldloop.model.interfaces.torchsim")
