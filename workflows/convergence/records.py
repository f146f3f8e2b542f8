"""What a convergence study found, as records; numbers in the project's units."""

from __future__ import annotations

from ...dft_inputs.records import SCHEMA_VERSION, AtomMatrices, AtomVectors, Matrix, Record, Vector
from .config import CUTOFFS, PARAMETERS, THRESHOLDS, Parameter, Tolerances, Value

UNITS = {
    "kpoints": "",
    **CUTOFFS,
    "field_step": "V/A",
    **THRESHOLDS,
    "born_effective_charges": "e",
    "polarizability": "e^2 A^2/eV",
    "dielectric": "1",
    "forces": "eV/A",
    "gap": "eV",
    "critical_field": "V/A",
    "string_length": "A",
    "cpu_seconds": "s",
    "deviation.born_effective_charges": "e",
    "deviation.dielectric": "of the mean diagonal",
    "deviation.forces": "eV/A",
}


class Deviation(Record):
    """How far two labels of one frame lie apart.

    Attributes:
        born_effective_charges: largest difference of a component, e.
        dielectric: largest difference of a component of eps_inf, over its mean diagonal.
        forces: largest difference of a component at zero field, eV/A.
    """

    born_effective_charges: float
    dielectric: float
    forces: float

    def over(self, tolerances: Tolerances) -> float:
        """The largest of the judged ones, as a multiple of its tolerance."""
        wanted = tolerances.model_dump(exclude_none=True)
        return max(getattr(self, name) / bound for name, bound in wanted.items())


class Setting(Record):
    """The four settings that a study varies: mesh, field step, and cutoff and threshold under their code's names.

    Attributes:
        kpoints: mesh.
        ecutwfc, ecut, encut: Ry (pw.x), Ha (ABINIT), eV (VASP); None but for the code studied.
        field_step: V/A.
        conv_thr, tolvrs, ediff: Ry (pw.x), of the squared residual (ABINIT), eV (VASP); None but for the code studied.
    """

    kpoints: tuple[int, int, int]
    ecutwfc: float | None = None
    ecut: float | None = None
    encut: float | None = None
    field_step: float
    conv_thr: float | None = None
    tolvrs: float | None = None
    ediff: float | None = None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Those of the code studied, in the order of tables."""
        return tuple(name for name in PARAMETERS if getattr(self, name) is not None)

    @property
    def threshold(self) -> float:
        """The SCF threshold, whatever the code calls it."""
        return next(getattr(self, name) for name in self.parameters if name in THRESHOLDS)

    def value(self, parameter: Parameter) -> Value:
        """That of a parameter of the code studied."""
        return getattr(self, parameter)


class Responses(Record):
    """The labels that are compared.

    Attributes:
        born_effective_charges: e, (N, 3, 3).
        charges: a third of the trace of Z*, mean over the atoms of each element, e.
        polarizability: e^2 A^2/eV, (3, 3).
        dielectric: eps_inf = 1 + alpha/(eps0 V), (3, 3).
        forces: at zero field, eV/A, (N, 3).
    """

    born_effective_charges: AtomMatrices
    charges: dict[str, float]
    polarizability: Matrix
    dielectric: Matrix
    forces: AtomVectors

    @property
    def mean_dielectric(self) -> float:
        """A third of the trace of eps_inf."""
        return float(self.dielectric.trace() / 3)


class ConvergenceRow(Record):
    """One label of a series.

    Attributes:
        setting: all four settings; those of the base but one.
        label_id: of the label in the store.
        base: these are the settings of the base.
        failure: why there is no label.
        flags: checks that failed; such a setting is never recommended.
        responses: the labels.
        deviation: from the reference of the series.
        scf_count, scf_iterations, cpu_seconds: the cost of the label.
        relative_cost: CPU time over that of the base.
        string_length: smallest N_i |a_i|, A, on which the error of a mesh depends.
        within: this and all better values deviate by no more than the parameter's share of the tolerances.
    """

    setting: Setting
    label_id: str
    base: bool = False
    failure: str | None = None
    flags: tuple[str, ...] = ()
    responses: Responses | None = None
    deviation: Deviation | None = None
    scf_count: int = 0
    scf_iterations: int = 0
    cpu_seconds: float = 0.0
    relative_cost: float | None = None
    string_length: float = 0.0
    within: bool = False


class Series(Record):
    """One parameter varied.

    Attributes:
        parameter: its name.
        rows: in the order of ``VarySection.series``.
        reference: index of the row that the others are compared with; None where no label was made.
        last_change: between the reference and the best value beside it.
        converged: that change is within the parameter's share of the tolerances.
        recommended: index of the cheapest row within the tolerances.
        notes: what to know, one line each.
    """

    parameter: Parameter
    rows: tuple[ConvergenceRow, ...]
    reference: int | None = None
    last_change: Deviation | None = None
    converged: bool = False
    recommended: int | None = None
    notes: tuple[str, ...] = ()


class Recommendation(Record):
    """The cheapest level of theory within the tolerances, as far as one parameter at a time can tell.

    Attributes:
        setting: of all four.
        converged: every series was shown to be converged.
        cost: estimate, over that of the base: the product of the relative costs of its parts.
        notes: caveats, one line each.
        yaml: the ``label`` section to paste into a campaign file.
    """

    setting: Setting
    converged: bool
    cost: float | None
    notes: tuple[str, ...]
    yaml: str = ""


class ConvergenceStudy(Record):
    """All that a study found.

    Attributes:
        name: of the study.
        formula, frame_id, species: of the crystal.
        gap: on the densest mesh checked, eV.
        critical_field: of the base mesh along each lattice vector, V/A.
        base: settings of the base.
        tolerances: the accuracy wanted.
        share: the part of the tolerances left to each parameter.
        series: one for each parameter that was varied.
        recommendation: what follows.
        units: of all numbers here.
    """

    name: str
    formula: str
    frame_id: str
    species: tuple[str, ...]
    gap: float
    critical_field: Vector
    base: Setting
    tolerances: Tolerances
    share: float
    series: tuple[Series, ...]
    recommendation: Recommendation
    units: dict[str, str] = UNITS
    schema_version: int = SCHEMA_VERSION
