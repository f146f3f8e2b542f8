"""Synthetic VASP: outputs in VASP's layout and conventions from an analytic enthalpy. No number here is of a DFT code.

U(R, E) = k/2 |u|^2 - P(R, 0).E - 1/2 E.alpha.E with P(R, 0) = sum Z r + p0 + sum (Z* - Z) u, so Z* and alpha are known.
What VASP does otherwise than fieldloop: electron's sign of dipoles and of EFIELD_PEAD, -stress in kB, atoms grouped by
species and wrapped, p[ion] without ions at the border of the cell centred about the origin, each run on a branch of
its own.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from fieldloop.dft_inputs.records import Frame
from pymatgen.core import Structure
from pymatgen.io.vasp import Poscar

VALENCES = {"O": 6.0, "Mg": 2.0}
MESH = (3, 2, 2)
CELL = np.array([[4.2, 0.1, 0.0], [0.3, 4.6, -0.2], [0.0, 0.5, 5.1]])
SITES = np.array([[0.0, 0.0, 0.0], [0.52, 0.48, 0.51], [0.02, 0.51, 0.5], [0.5, 0.03, -0.02]])
SPECIES = ("O", "Mg", "O", "Mg")
SHIFT = np.random.default_rng(5).normal(scale=0.03, size=(4, 3))


def charges() -> np.ndarray:
    """Low symmetry, sum rule met, index [atom, field, displacement]."""
    values = np.random.default_rng(3).normal(scale=0.3, size=(4, 3, 3))
    values -= values.mean(axis=0)
    return values + np.array([2.0 if s == "Mg" else -2.0 for s in SPECIES])[:, None, None] * np.eye(3)


@dataclass
class Crystal:
    """The model; ``frame`` holds positions that lie in other cells too."""

    shift: np.ndarray = field(default_factory=lambda: SHIFT)
    stiffness: float = 3.0
    born: np.ndarray = field(default_factory=charges)
    alpha: np.ndarray = field(default_factory=lambda: np.array([[0.9, 0.05, 0.0], [0.05, 0.8, -0.1], [0.0, -0.1, 1.1]]))

    @property
    def frame(self) -> Frame:
        positions = (SITES + np.array([[0, 1, 0], [0, 0, 0], [-1, 0, 0], [0, 0, 1]])) @ CELL + self.shift
        return Frame(species=SPECIES, positions=positions, cell=CELL)

    @property
    def bare(self) -> np.ndarray:
        return np.array([VALENCES[s] for s in SPECIES])

    def electronic(self, applied: np.ndarray) -> np.ndarray:
        start = np.array([0.7, -0.4, 1.3])
        dressing = self.born - self.bare[:, None, None] * np.eye(3)
        return start + np.einsum("iab,ib->a", dressing, self.shift) + self.alpha @ applied

    def dipole(self, applied: np.ndarray) -> np.ndarray:
        return self.bare @ self.frame.positions + self.electronic(applied)

    def enthalpy(self, applied: np.ndarray) -> float:
        induced = 0.5 * applied @ self.alpha @ applied
        return self.stiffness / 2 * (self.shift**2).sum() - 20.0 - self.dipole(0 * applied) @ applied - induced

    def forces(self, applied: np.ndarray) -> np.ndarray:
        return -self.stiffness * self.shift + np.einsum("a,iab->ib", applied, self.born)


@dataclass
class Faults:
    """What VASP may do otherwise than assumed, and damage."""

    sign: float = -1.0
    deaf_forces: bool = False
    unconverged: bool = False
    born: bool = False
    seed: int = 0


def write_run(directory: Path, crystal: Crystal, applied, faults: Faults | None = None, *, xml: bool = True) -> Path:
    """OUTCAR and vasprun.xml of a static run at a physical field, V/A."""
    faults, applied = faults or Faults(), np.asarray(applied, dtype=float)
    directory.mkdir(parents=True, exist_ok=True)
    order = [0, 2, 1, 3]
    frame = crystal.frame
    fractional = np.round((frame.positions @ np.linalg.inv(CELL)) % 1.0, 8)[order]
    random = np.random.default_rng([faults.seed, *(abs(int(1e5 * v)) for v in applied), int((applied < 0).sum())])
    n1, n2, n3 = MESH
    strings = 2 * CELL / np.array([[n2 * n3], [n1 * n3], [n1 * n2]])
    electronic = crystal.electronic(applied) + random.integers(-1, 2, 3) @ strings
    ionic = vasp_ionic_dipole(fractional, crystal.bare[order])
    # -E.P of VASP in place of that of the model.
    energy = crystal.enthalpy(applied) + applied @ (crystal.dipole(applied) - electronic - ionic)
    forces = crystal.forces(0 * applied if faults.deaf_forces else applied)[order]
    pead = faults.sign * applied
    stress = np.array([[12.0, 1.0, -2.0], [1.0, -5.0, 0.5], [-2.0, 0.5, 7.0]])
    born = crystal.born[order] if faults.born else None
    outcar = _outcar(fractional @ CELL, forces, energy, stress, pead, -electronic, -ionic, born, crystal, faults)
    (directory / "OUTCAR").write_text(outcar)
    species = [SPECIES[atom] for atom in order]
    Poscar(Structure(CELL, species, fractional)).write_file(directory / "CONTCAR")
    if xml:
        (directory / "vasprun.xml").write_text(_vasprun(fractional, forces, energy, stress, pead, born, crystal))
    return directory


def vasp_ionic_dipole(fractional: np.ndarray, bare: np.ndarray) -> np.ndarray:
    """Nearest images about the origin; those close to the border count as half on either side, which is nothing."""
    folded = fractional - np.round(fractional)
    folded[np.abs(np.abs(folded) - 0.5) < 0.002] = 0.0
    return bare @ (folded @ CELL)


def _vector(values) -> str:
    return "".join(f"{v:12.5f}" for v in values)


def _outcar(positions, forces, energy, stress, pead, elc, ion, born, crystal, faults) -> str:
    rows = "\n".join("".join(f"{v:13.5f}" for v in p) + "   " + "".join(f"{v:14.6f}" for v in f)
                     for p, f in zip(positions, forces, strict=True))  # fmt: skip
    cell = "\n".join("".join(f"{v:13.9f}" for v in (*a, *b)) for a, b in zip(CELL, np.linalg.inv(CELL).T, strict=True))
    xx, yy, zz, xy, yz, zx = (stress[i] for i in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)))
    response = ""
    if born is not None:
        volume = abs(np.linalg.det(CELL))
        eps = np.eye(3) + crystal.alpha / (5.526349358e-3 * volume)
        block = "\n".join(
            f" ion{i + 1:5d}\n"
            + "\n".join(f"{a + 1:5d}" + "".join(f"{v:12.5f}" for v in row) for a, row in enumerate(z))
            for i, z in enumerate(born)
        )
        response = (
            " MACROSCOPIC STATIC DIELECTRIC TENSOR (including local field effects in DFT)\n"
            " ------------------------------------------------------\n"
            + "\n".join("".join(f"{v:16.6f}" for v in row) for row in eps)
            + "\n ------------------------------------------------------\n\n"
            " BORN EFFECTIVE CHARGES (including local field effects) (in |e|, cummulative output)\n"
            f" ---------------------------------------------------------------------------------\n{block}\n\n"
        )
    verdict = "EDIFF was not reached (unconverged)  " if faults.unconverged else "because EDIFF is reached"
    return f""" vasp.6.4.2 SYNTHETIC, not of a run of VASP
 executed on             SYNTHETIC date 2000.01.01  00:00:00
   EFIELD_PEAD ={pead[0]:.8f} {pead[1]:.8f} {pead[2]:.8f}
   TITEL  = PAW_PBE O 08Apr2002
   POMASS =   16.000; ZVAL   =    6.000    mass and valenz
   TITEL  = PAW_PBE Mg 13Apr2007
   POMASS =   24.305; ZVAL   =    2.000    mass and valenz
 generate k-points for:    {MESH[0]}    {MESH[1]}    {MESH[2]}
   k-points           NKPTS =     12   k-points in BZ     NKDIM =     12   number of bands    NBANDS=     11
   total plane-waves  NPLWV =  27000
   ions per type =               2   2
   ISPIN  =      1    spin polarized calculation?
   IBRION =     -1    ionic relax: 0-MD 1-quasi-New 2-CG
   LCALCEPS   =     F    calculate dielectric tensor
   EFIELD_PEAD={_vector(pead)}
--------------------------------------- Iteration      1(   9)  ---------------------------------------
 total energy-change (2. order) :-0.4000000E-09  (-0.4000000E-09)
------------------------ aborting loop {verdict} ----------------------------------------
            Ionic dipole moment: p[ion]=({_vector(ion)} ) electrons Angst
 Total electronic dipole moment: p[elc]=({_vector(elc)} ) electrons Angst
  in kB  {xx:12.5f}{yy:12.5f}{zz:12.5f}{xy:12.5f}{yz:12.5f}{zx:12.5f}
      direct lattice vectors                 reciprocal lattice vectors
{cell}

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
{rows}
 -----------------------------------------------------------------------------------
  free  energy   TOTEN  = {energy:18.8f} eV
{response} General timing and accounting informations for this job:
                         Elapsed time (sec):       10.000
"""


def _vasprun(fractional, forces, energy, stress, pead, born, crystal) -> str:
    def varray(name, rows):
        body = "".join("<v>" + " ".join(f"{v:16.8f}" for v in row) + "</v>" for row in rows)
        return f'<varray name="{name}">{body}</varray>'

    atoms = "".join(f"<rc><c>{s} </c><c>{t}</c></rc>" for s, t in (("O", 1), ("O", 1), ("Mg", 2), ("Mg", 2)))
    types = "".join(
        f"<rc><c>2</c><c>{s}</c><c>1.0</c><c>{VALENCES[s]:.8f}</c><c>{t}</c></rc>"
        for s, t in (("O", "PAW_PBE O 08Apr2002"), ("Mg", "PAW_PBE Mg 13Apr2007"))
    )
    structure = f"<structure><crystal>{varray('basis', CELL)}</crystal>{varray('positions', fractional)}</structure>"
    energies = "".join(f'<i name="{kind}">{energy:.8f}</i>' for kind in ("e_fr_energy", "e_wo_entrp", "e_0_energy"))
    energies = f"<energy>{energies}</energy>"
    steps = f"<scstep>{energies}</scstep>" * 2
    response = ""
    if born is not None:
        eps = np.eye(3) + crystal.alpha / (5.526349358e-3 * abs(np.linalg.det(CELL)))
        sets = "".join(f"<set>{varray('x', z).split('>', 1)[1].removesuffix('</varray>')}</set>" for z in born)
        response = varray("epsilon", eps) + f'<array name="born_charges">{sets}</array>'
    bands = "".join(f"<r>{e} {o}</r>" for e, o in ((-3.0, 1.0), (-1.0, 1.0), (4.0, 0.0)))
    states = "".join(f"<r>{e} {d} {i}</r>" for e, d, i in ((-3.0, 1.0, 2.0), (0.0, 0.0, 4.0), (4.0, 1.0, 6.0)))
    k_point = f'<set comment="kpoint 1">{bands}</set>'
    eigenvalues = f'<eigenvalues><array><set><set comment="spin 1">{k_point}</set></set></array></eigenvalues>'
    mesh = " ".join(map(str, MESH))
    field_tag = f'<v name="EFIELD_PEAD">{" ".join(f"{v:16.8f}" for v in pead)}</v>' if np.any(pead) else ""
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling><!-- SYNTHETIC, not of a run of VASP -->
<generator><i name="version" type="string">6.4.2 </i></generator>
<incar><i type="int" name="IBRION">-1</i><i type="int" name="ISYM">-1</i>{field_tag}</incar>
<kpoints><generation param="Gamma"><v type="int" name="divisions"> {mesh} </v></generation>
<varray name="kpointlist"><v>0.0 0.0 0.0</v></varray><varray name="weights"><v>1.0</v></varray></kpoints>
<parameters><i type="int" name="LORBIT">0</i>
<i type="int" name="NELM">200</i><i type="int" name="ISPIN">1</i></parameters>
<atominfo><array name="atoms"><set>{atoms}</set></array><array name="atomtypes"><set>{types}</set></array></atominfo>
{structure.replace("<structure>", '<structure name="initialpos">')}
<calculation>{steps}{structure}{varray("forces", forces)}{varray("stress", stress)}
{energies}{response}{eigenvalues}
<dos><i name="efermi">0.0</i><total><array><set><set comment="spin 1">{states}</set></set></array></total></dos>
</calculation>
{structure.replace("<structure>", '<structure name="finalpos">')}
</modeling>
"""


def moved(crystal: Crystal, atom: int, axis: int, by: float) -> Crystal:
    """The crystal with one atom moved."""
    shift = crystal.shift.copy()
    shift[atom, axis] += by
    return replace(crystal, shift=shift)
