"""fieldloop: machine-learned potentials for materials in electric fields, from DFT labels to field dynamics.

The names below are loaded on first use (PEP 562), so that ``import fieldloop`` costs nothing and
``dft_inputs`` can be used where neither torch nor jobflow is installed. Nothing at all is imported from the package
here: pytest imports this file under the name of the clone, which need not be a Python name.
"""

from importlib import import_module
from typing import Any

_FACE = {
    "__version__": "version",
    "Frame": "dft_inputs.records",
    "LabelledFrame": "dft_inputs.records",
    "ElectricResponse": "dft_inputs.records",
    "EnthalpyNetwork": "model.network",
    "load_model": "model.files",
    "EnthalpyCalculator": "model.interfaces.ase",
    "load_calculator": "model.interfaces.ase",
    "LabelMaker": "workflows.labelling",
    "DfptLabelMaker": "workflows.dfpt",
    "FiniteFieldVaspMaker": "workflows.vasp",
    "ConvergenceMaker": "workflows.convergence.flow",
    "FieldDynamicsMaker": "workflows.field_dynamics",
    "LoopMaker": "workflows.loop",
    "run_flow": "workflows.executors",
    "SQLiteStore": "workflows.store",
}

__all__ = [*_FACE]  # noqa: PLE0604  (the names of the table are strings)


def __getattr__(name: str) -> Any:
    """Import a public name from its room on first use."""
    if name not in _FACE:
        raise AttributeError(f"module 'fieldloop' has no attribute {name!r}")
    return getattr(import_module(f".{_FACE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
