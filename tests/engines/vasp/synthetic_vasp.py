"""Synthetic VASP: outputs in VASP's layout and conventions from an analytic enthalpy. No number here is of a DFT code.

U(R, E) = k/2 |v|^2 + g/4 sum |v|^4 - P(R).E - 1/2 E.alpha(R).E with v = u - <u>, the displacements without their mean,
P(R) = sum Z r + p0 + sum (Z0 - Z) u + 1/2 v.D.v and alpha(R) = alpha0 + A.v, so forces, Z* and alpha are known.
What VASP does otherwise than fieldloop: electron's sign of dipoles and of EFIELD_PEAD, -stress in kB, atoms grouped by
species and wrapped, p[ion] without ions at the border of the cell centred about the origin, each run on a branch of
its own. NumPy alone is imported, as ``vasp_std.py`` is started for every run.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

VALENCES = {"O": 6.0, "Mg": 2.0}
TITLES = {"O": "PAW_PBE O 08Apr2002", "Mg": "PAW_PBE Mg 13Apr2007"}
MESH = (3, 2, 2)
CELL = np.array([[4.2, 0.1, 0.0], [0.3, 4.6, -0.2], [0.0, 0.5, 5.1]])
SITES = np.array([[0.0, 0.0, 0.0], [0.52, 0.48, 0.51], [0.02, 0.51, 0.5], [0.5, 0.03, -0.02]])
IMAGES = np.array([[0, 1, 0], [0, 0, 0], [-1, 0, 0], [0, 0, 1]])
"""The cells in which the frame holds its atoms."""
SPECIES = ("O", "Mg", "O", "Mg")
GROUPED = (0, 2, 1, 3)
"""The sites in VASP's order."""
SHIFT = np.random.default_rng(5).normal(scale=0.03, size=(4, 3))
OCCUPIED = -1.0
"""eV: the highest occupied level."""
VACUUM_PERMITTIVITY = 5.526349358e-3


def charges() -> np.ndarray:
    """Low symmetry, sum rule met, index [atom, field, displacement]."""
    values = np.random.default_rng(3).normal(scale=0.3, size=(4, 3, 3))
    values -= values.mean(axis=0)
    return values + np.array([2.0 if s == "Mg" else -2.0 for s in SPECIES])[:, None, None] * np.eye(3)


def _symmetric(seed: int, scale: float, axes: tuple[int, int]) -> np.ndarray:
    values = np.random.default_rng(seed).normal(scale=scale, size=(4, 3, 3, 3))
    return (values + values.swapaxes(*axes)) / 2


@dataclass
class Crystal:
    """The model; ``frame`` holds positions that lie in other cells too."""

    shift: np.ndarray = field(default_factory=lambda: SHIFT)
    stiffness: float = 3.0
    quartic: float = 5.0
    charges: np.ndarray = field(default_factory=charges)
    clamped: np.ndarray = field(
        default_factory=lambda: np.array([[0.9, 0.05, 0.0], [0.05, 0.8, -0.1], [0.0, -0.1, 1.1]])
    )
    bent: np.ndarray = field(default_factory=lambda: _symmetric(7, 0.5, (2, 3)))  # [atom, field, two displacements]
    raman: np.ndarray = field(default_factory=lambda: _symmetric(8, 0.4, (1, 2)))  # [atom, two fields, displacement]

    @property
    def frame(self):
        from fieldloop.dft_inputs.records import Frame

        return Frame(species=SPECIES, positions=self.positions, cell=CELL)

    @property
    def positions(self) -> np.ndarray:
        return (SITES + IMAGES) @ CELL + self.shift

    @property
    def moves(self) -> np.ndarray:
        return self.shift - self.shift.mean(axis=0)

    @property
    def bare(self) -> np.ndarray:
        return np.array([VALENCES[s] for s in SPECIES])

    @property
    def alpha(self) -> np.ndarray:
        return self.clamped + np.einsum("iabc,ic->ab", self.raman, self.moves)

    @property
    def born(self) -> np.ndarray:
        """dP/du at zero field, [atom, field, displacement]."""
        change = np.einsum("iabc,ic->iab", self.bent, self.moves)
        return self.charges + change - change.mean(axis=0)

    @property
    def gap(self) -> float:
        """eV: it closes where an atom has gone far."""
        return 5.0 - 20.0 * max(0.0, float(np.linalg.norm(self.moves, axis=1).max()) - 0.3)

    def electronic(self, applied: np.ndarray) -> np.ndarray:
        start = np.array([0.7, -0.4, 1.3])
        dressing = self.charges - self.bare[:, None, None] * np.eye(3)
        bend = 0.5 * np.einsum("iabc,ib,ic->a", self.bent, self.moves, self.moves)
        return start + np.einsum("iab,ib->a", dressing, self.shift) + bend + self.alpha @ applied

    def dipole(self, applied: np.ndarray) -> np.ndarray:
        return self.bare @ self.positions + self.electronic(applied)

    def enthalpy(self, applied: np.ndarray) -> float:
        squares = (self.moves**2).sum(axis=1)
        elastic = self.stiffness / 2 * squares.sum() + self.quartic / 4 * (squares**2).sum()
        return elastic - 20.0 - self.dipole(0 * applied) @ applied - 0.5 * applied @ self.alpha @ applied

    def forces(self, applied: np.ndarray) -> np.ndarray:
        squares = (self.moves**2).sum(axis=1, keepdims=True)
        pull = -(self.stiffness + self.quartic * squares) * self.moves
        pull = pull + 0.5 * np.einsum("iabc,a,b->ic", self.raman, applied, applied)
        return pull - pull.mean(axis=0) + np.einsum("a,iab->ib", applied, self.born)

    def stress(self) -> np.ndarray:
        """As printed, kB."""
        return np.array([[12.0, 1.0, -2.0], [1.0, -5.0, 0.5], [-2.0, 0.5, 7.0]])


@dataclass
class Faults:
    """What VASP may do otherwise than assumed, and damage."""

    sign: float = -1.0
    deaf_forces: bool = False
    unconverged: bool = False
    born: bool = False
    seed: int = 0


@dataclass
class Setup:
    """What INCAR, KPOINTS and POTCAR say; the atoms are those of ``order``."""

    order: tuple[int, ...] = GROUPED
    mesh: tuple[int, int, int] = MESH
    titles: dict = field(default_factory=lambda: dict(TITLES))
    valences: dict = field(default_factory=lambda: dict(VALENCES))
    nspin: int = 1
    nelm: int = 200
    iterations: int = 9
    last_change: float = 4e-10
    dipoles: bool = True
    ibrion: int = -1


@dataclass
class Step:
    """The numbers of one geometry, as VASP prints them."""

    fractional: np.ndarray
    forces: np.ndarray
    energy: float
    stress: np.ndarray
    electronic: np.ndarray
    ionic: np.ndarray
    gap: float


def write_run(
    directory: Path, crystal, applied, faults: Faults | None = None, *, xml: bool = True, setup: Setup | None = None
) -> Path:
    """OUTCAR, CONTCAR and vasprun.xml of a run at a physical field, V/A.

    Args:
        directory: is made.
        crystal: one, or the geometries of a relaxation.
        applied: V/A, (3,).
        faults: what is wrong with it.
        xml: with vasprun.xml.
        setup: of the run.
    """
    faults, setup, applied = faults or Faults(), setup or Setup(), np.asarray(applied, dtype=float)
    crystals = [crystal] if isinstance(crystal, Crystal) else list(crystal)
    directory.mkdir(parents=True, exist_ok=True)
    steps = [_step(one, applied, faults, setup) for one in crystals]
    pead = faults.sign * applied
    (directory / "OUTCAR").write_text(_outcar(steps, crystals[-1], pead, faults, setup))
    (directory / "CONTCAR").write_text(_contcar(steps[-1], setup))
    if xml:
        (directory / "vasprun.xml").write_text(_vasprun(steps, crystals[-1], pead, faults, setup))
    return directory


def _step(crystal: Crystal, applied: np.ndarray, faults: Faults, setup: Setup) -> Step:
    order = list(setup.order)
    fractional = np.round((crystal.positions @ np.linalg.inv(CELL)) % 1.0, 8)[order]
    random = np.random.default_rng([faults.seed, *(abs(int(1e5 * v)) for v in applied), int((applied < 0).sum())])
    n1, n2, n3 = setup.mesh
    strings = 2 / setup.nspin * CELL / np.array([[n2 * n3], [n1 * n3], [n1 * n2]])
    electronic = crystal.electronic(applied) + random.integers(-1, 2, 3) @ strings
    ionic = vasp_ionic_dipole(fractional, crystal.bare[order])
    return Step(
        fractional=fractional,
        forces=crystal.forces(0 * applied if faults.deaf_forces else applied)[order],
        # -E.P of VASP in place of that of the model.
        energy=crystal.enthalpy(applied) + float(applied @ (crystal.dipole(applied) - electronic - ionic)),
        stress=crystal.stress(),
        electronic=electronic,
        ionic=ionic,
        gap=crystal.gap,
    )


def vasp_ionic_dipole(fractional: np.ndarray, bare: np.ndarray) -> np.ndarray:
    """Nearest images about the origin; those close to the border count as half on either side, which is nothing."""
    folded = fractional - np.round(fractional)
    folded[np.abs(np.abs(folded) - 0.5) < 0.002] = 0.0
    return bare @ (folded @ CELL)


def _types(setup: Setup) -> dict[str, int]:
    species = [SPECIES[atom] for atom in setup.order]
    return {symbol: species.count(symbol) for symbol in dict.fromkeys(species)}


def _vector(values) -> str:
    return "".join(f"{v:12.5f}" for v in values)


def _contcar(step: Step, setup: Setup) -> str:
    types = _types(setup)
    rows = [" ".join(f"{v:.10f}" for v in row) for row in (*CELL, *step.fractional)]
    head = ["SYNTHETIC", "1.0", *rows[:3], " ".join(types), " ".join(map(str, types.values())), "Direct"]
    return "\n".join([*head, *rows[3:]]) + "\n"


def _outcar(steps: list[Step], crystal: Crystal, pead, faults: Faults, setup: Setup) -> str:
    mesh, types = setup.mesh, _types(setup)
    potcars = "".join(
        f"   TITEL  = {setup.titles[s]}\n   POMASS =   16.000; ZVAL   = {setup.valences[s]:8.3f}    mass and valenz\n"
        for s in types
    )
    echo = f"   EFIELD_PEAD ={pead[0]:.8f} {pead[1]:.8f} {pead[2]:.8f}\n" if np.any(pead) else ""
    field_line = f"   EFIELD_PEAD={_vector(pead)}\n" if np.any(pead) else ""
    body = "".join(_outcar_step(number, step, faults, setup) for number, step in enumerate(steps, 1))
    return f""" vasp.6.4.2 SYNTHETIC, not of a run of VASP
 executed on             SYNTHETIC date 2000.01.01  00:00:00
{echo}{potcars} generate k-points for:    {mesh[0]}    {mesh[1]}    {mesh[2]}
   k-points           NKPTS =     12   k-points in BZ     NKDIM =     12   number of bands    NBANDS=     11
   total plane-waves  NPLWV =  27000
   ions per type =            {"".join(f"{n:4d}" for n in types.values())}
   NELM   = {setup.nelm:6d};   NELMIN=  2; NELMDL= -5     # of ELM steps
   EDIFF  = 0.1E-06   stopping-criterion for ELM
   ISPIN  =      {setup.nspin}    spin polarized calculation?
   IBRION =     {setup.ibrion}    ionic relax: 0-MD 1-quasi-New 2-CG
   LCALCEPS   =     F    calculate dielectric tensor
{field_line}{body}{_response(crystal, setup) if faults.born else ""}\
 General timing and accounting informations for this job:
                  Total CPU time used (sec):        9.000
                         Elapsed time (sec):       10.000
"""


def _outcar_step(number: int, step: Step, faults: Faults, setup: Setup) -> str:
    rows = "\n".join("".join(f"{v:13.5f}" for v in p) + "   " + "".join(f"{v:14.6f}" for v in f)
                     for p, f in zip(step.fractional @ CELL, step.forces, strict=True))  # fmt: skip
    cell = "\n".join("".join(f"{v:13.9f}" for v in (*a, *b)) for a, b in zip(CELL, np.linalg.inv(CELL).T, strict=True))
    xx, yy, zz, xy, yz, zx = (step.stress[i] for i in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)))
    verdict = "EDIFF was not reached (unconverged)  " if faults.unconverged else "because EDIFF is reached"
    changes = [-setup.last_change * 10.0**left for left in reversed(range(setup.iterations))]
    iterations = "".join(
        f"{'':-<39} Iteration {number:6d}({i:4d})  {'':-<39}\n"
        f" total energy-change (2. order) :{change:.7E}  (-0.4000000E-09)\n"
        for i, change in enumerate(changes, 1)
    )
    dipoles = (
        f"            Ionic dipole moment: p[ion]=({_vector(-step.ionic)} ) electrons Angst\n"
        f" Total electronic dipole moment: p[elc]=({_vector(-step.electronic)} ) electrons Angst\n"
    )
    return f"""{iterations}\
------------------------ aborting loop {verdict} ----------------------------------------
{dipoles if setup.dipoles else ""}  in kB  {xx:12.5f}{yy:12.5f}{zz:12.5f}{xy:12.5f}{yz:12.5f}{zx:12.5f}
      direct lattice vectors                 reciprocal lattice vectors
{cell}

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
{rows}
 -----------------------------------------------------------------------------------
  free  energy   TOTEN  = {step.energy:18.8f} eV
"""


def _response(crystal: Crystal, setup: Setup) -> str:
    eps = np.eye(3) + crystal.alpha / (VACUUM_PERMITTIVITY * abs(np.linalg.det(CELL)))
    block = "\n".join(
        f" ion{i + 1:5d}\n" + "\n".join(f"{a + 1:5d}" + "".join(f"{v:12.5f}" for v in row) for a, row in enumerate(z))
        for i, z in enumerate(crystal.born[list(setup.order)])
    )
    return (
        " MACROSCOPIC STATIC DIELECTRIC TENSOR (including local field effects in DFT)\n"
        " ------------------------------------------------------\n"
        + "\n".join("".join(f"{v:16.6f}" for v in row) for row in eps)
        + "\n ------------------------------------------------------\n\n"
        " BORN EFFECTIVE CHARGES (including local field effects) (in |e|, cummulative output)\n"
        f" ---------------------------------------------------------------------------------\n{block}\n\n"
    )


def _varray(name, rows):
    body = "".join("<v>" + " ".join(f"{v:16.8f}" for v in row) + "</v>" for row in rows)
    return f'<varray name="{name}">{body}</varray>'


def _structure(step: Step, name: str = "") -> str:
    inside = f"<crystal>{_varray('basis', CELL)}</crystal>{_varray('positions', step.fractional)}"
    return f"<structure{name}>{inside}</structure>"


def _vasprun(steps: list[Step], crystal: Crystal, pead, faults: Faults, setup: Setup) -> str:
    counted = list(_types(setup).items())
    atoms = "".join(f"<rc><c>{s} </c><c>{t}</c></rc>" * n for t, (s, n) in enumerate(counted, 1))
    types = "".join(
        f"<rc><c>{n}</c><c>{s}</c><c>1.0</c><c>{setup.valences[s]:.8f}</c><c>{setup.titles[s]}</c></rc>"
        for s, n in counted
    )
    levels = (OCCUPIED, 1.0), (OCCUPIED + steps[-1].gap, 0.0)
    bands = "".join(f"<r>{e} {o}</r>" for e, o in ((-3.0, 1.0), *levels))
    states = "".join(f"<r>{e} {d} {i}</r>" for e, d, i in ((-3.0, 1.0, 2.0), (0.0, 0.0, 4.0), (4.0, 1.0, 6.0)))
    eigenvalues = f'<eigenvalues><array><set><set comment="spin 1"><set comment="kpoint 1">{bands}</set></set></set>'
    last = (f"{eigenvalues}</array></eigenvalues><dos><i name=\"efermi\">0.0</i><total><array><set>"
            f'<set comment="spin 1">{states}</set></set></array></total></dos>')  # fmt: skip
    calculations = "".join(
        _calculation(step, setup, (_xml_response(crystal, setup) if faults.born else "") + last)
        if step is steps[-1]
        else _calculation(step, setup, "")
        for step in steps
    )
    mesh = " ".join(map(str, setup.mesh))
    field_tag = f'<v name="EFIELD_PEAD">{" ".join(f"{v:16.8f}" for v in pead)}</v>' if np.any(pead) else ""
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling><!-- SYNTHETIC, not of a run of VASP -->
<generator><i name="version" type="string">6.4.2 </i></generator>
<incar><i type="int" name="IBRION">{setup.ibrion}</i><i type="int" name="ISYM">-1</i>{field_tag}</incar>
<kpoints><generation param="Gamma"><v type="int" name="divisions"> {mesh} </v></generation>
<varray name="kpointlist"><v>0.0 0.0 0.0</v></varray><varray name="weights"><v>1.0</v></varray></kpoints>
<parameters><i type="int" name="LORBIT">0</i>
<i type="int" name="NELM">{setup.nelm}</i><i type="int" name="ISPIN">{setup.nspin}</i></parameters>
<atominfo><array name="atoms"><set>{atoms}</set></array><array name="atomtypes"><set>{types}</set></array></atominfo>
{_structure(steps[0], ' name="initialpos"')}
{calculations}
{_structure(steps[-1], ' name="finalpos"')}
</modeling>
"""


def _calculation(step: Step, setup: Setup, more: str) -> str:
    energies = "".join(f'<i name="{k}">{step.energy:.8f}</i>' for k in ("e_fr_energy", "e_wo_entrp", "e_0_energy"))
    energies = f"<energy>{energies}</energy>"
    electronic = f"<scstep>{energies}</scstep>" * setup.iterations
    return (
        f"<calculation>{electronic}{_structure(step)}{_varray('forces', step.forces)}{_varray('stress', step.stress)}\n"
        f"{energies}{more}\n</calculation>"
    )


def _xml_response(crystal: Crystal, setup: Setup) -> str:
    eps = np.eye(3) + crystal.alpha / (VACUUM_PERMITTIVITY * abs(np.linalg.det(CELL)))
    born = crystal.born[list(setup.order)]
    sets = "".join(f"<set>{_varray('x', z).split('>', 1)[1].removesuffix('</varray>')}</set>" for z in born)
    return _varray("epsilon", eps) + f'<array name="born_charges">{sets}</array>'


def moved(crystal: Crystal, atom: int, axis: int, by: float) -> Crystal:
    """The crystal with one atom moved."""
    shift = crystal.shift.copy()
    shift[atom, axis] += by
    return replace(crystal, shift=shift)


def potcar_text(symbol: str, title: str | None = None) -> str:
    """A file in the place of a POTCAR: its head alone, with none of the content that is licensed."""
    title = title or TITLES[symbol]
    return (
        f"  {title}\n   {VALENCES[symbol]:.8f}\n parameters from PSCTR are:\n   SYNTHETIC, not a POTCAR of VASP\n"
        f"   VRHFIN ={symbol}: synthetic\n"
        f"   TITEL  = {title}\n   POMASS =   16.000; ZVAL   = {VALENCES[symbol]:8.3f}    mass and valenz\n"
        "   ENMAX  =  400.000; ENMIN  =  300.000 eV\n END of PSCTR-controll parameters\n End of Dataset\n"
    )
