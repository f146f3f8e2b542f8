"""INCAR, KPOINTS and POSCAR of the runs of a label, and its identity. POTCAR files are the user's own.

Each tag is there for a reason given by VASP's documentation (vasp.at/wiki, pages of the tags). Sources of the field's:
EFIELD_PEAD, LCALCPOL, LCALCEPS, LEPSILON; Nunes and Gonze, PRB 63, 155107 (2001); Souza, Iniguez and Vanderbilt, PRL
89, 117602 (2002).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..files import write_atomically
from ..identity import content_hash, label_name
from ..pseudopotentials import Pseudopotential, family_hash
from ..records import Frame, Provenance
from ..stencil import Stencil
from .settings import IncarValue, VaspSettings

CODE = "vasp"
"""In the provenance of labels."""
FIELD_SIGN = -1.0
"""EFIELD_PEAD over the field. It is documented as a force field in eV/A: what pushes an electron, against E.

VASP's dipoles have the electron's sign too (NaF of the wiki: -0.995 e for F follows from minus their change). A wrong
sign here would make every polarizability negative, which labels refuse; ``fieldloop doctor --vasp`` confirms it.
"""
SMALLEST_FIELD = 1e-4
"""V/A. OUTCAR prints EFIELD_PEAD with four decimals, and fields below 1e-5 are taken as none at all."""
VASP_STEP = 0.01
"""V/A: the step of VASP's own LCALCEPS. Dipoles are printed with five decimals only, which rules out smaller ones."""

Incar = dict[str, IncarValue]
Method = Literal["dfpt", "finite-field"]


def static_incar(settings: VaspSettings) -> Incar:
    """Zero field: SCF, forces, stress and the Berry-phase dipole.

    ISYM = -1: a field breaks the symmetry, and all points of a stencil need the k-points of the same, full mesh.
    ISMEAR = 0: occupations must be those of an insulator; tetrahedra and Methfessel-Paxton are not meant for fields.
    LREAL = False, PREC, LASPH, EDIFF: forces are differenced, so their noise must be small.
    NSW = 0: one geometry. ISIF = 2: the stress too. LWAVE: the field points start from these wavefunctions.
    """
    incar: Incar = {
        "ALGO": "Normal",
        "PREC": "Accurate",
        "ENCUT": settings.encut,
        "EDIFF": settings.ediff,
        "NELM": settings.nelm,
        "ISMEAR": 0,
        "SIGMA": settings.sigma,
        "LREAL": False,
        "LASPH": True,
        "ISYM": -1,
        "IBRION": -1,
        "NSW": 0,
        "ISIF": 2,
        "LWAVE": True,
        "LCHARG": False,
        "LCALCPOL": True,
    }
    if settings.gga is not None:
        incar["GGA"] = settings.gga
    return {**incar, **settings.incar}


def field_incar(settings: VaspSettings, field: np.ndarray) -> Incar:
    """A run in a field: VASP converges zero field first, then switches EFIELD_PEAD on.

    SKIP_EDOTP stays off: with it the printed energy lacks -E.P (seen in the wiki's NaF: +6.0 instead of -5.9 ueV).

    Args:
        settings: level of theory.
        field: V/A, (3,).

    Raises:
        ValueError: a component too small to be taken.
    """
    if ((np.asarray(field) != 0) & (np.abs(field) < SMALLEST_FIELD)).any():
        raise ValueError(
            f"field components below {SMALLEST_FIELD:g} V/A are lost in VASP, got {list(map(float, field))}"
        )
    if not np.any(field):
        return static_incar(settings)
    applied = tuple(round(float(FIELD_SIGN * value), 10) + 0.0 for value in field)
    return {**static_incar(settings), "EFIELD_PEAD": applied}


def response_incar(settings: VaspSettings, method: Method = "dfpt") -> Incar:
    """Z* and the dielectric tensor in one run: by DFPT (LEPSILON), or by VASP's own finite fields (LCALCEPS).

    LEPSILON is for functionals of the density; LCALCEPS works for hybrids too. LPEAD: derivatives by k from
    differences, as in finite fields, and no failing commutator. LRPA = False: local fields of exchange and correlation.
    LCALCPOL stays on for the dipole of the same run.
    """
    if method == "dfpt":
        return {**static_incar(settings), "LEPSILON": True, "LPEAD": True, "LRPA": False}
    return {**static_incar(settings), "LCALCEPS": True, "EFIELD_PEAD": (VASP_STEP,) * 3, "LRPA": False}


def incar_text(incar: Mapping[str, IncarValue]) -> str:
    """The text of an INCAR, one tag a line."""
    return "".join(f"{tag} = {_words(value)}\n" for tag, value in incar.items())


def kpoints_text(settings: VaspSettings) -> str:
    """KPOINTS: a mesh centred on Gamma, as PEAD works with no other."""
    return "centred on Gamma, as fields need\n0\nGamma\n{} {} {}\n0 0 0\n".format(*settings.mesh)


def poscar_text(frame: Frame) -> str:
    """POSCAR with the species grouped in the order of their first atom; see ``grouped`` for the order of the atoms."""
    counts = Counter(frame.species)
    rows = [" ".join(f"{x:.16f}" for x in vector) for vector in (*frame.cell, *frame.positions[grouped(frame)])]
    head = [frame.formula, "1.0", *rows[:3], " ".join(counts), " ".join(map(str, counts.values())), "Cartesian"]
    return "\n".join([*head, *rows[3:]]) + "\n"


def grouped(frame: Frame) -> list[int]:
    """Order of the atoms in POSCAR: species together, atoms of a species as they are in the frame."""
    order = list(dict.fromkeys(frame.species))
    return sorted(range(len(frame)), key=lambda atom: order.index(frame.species[atom]))


def check_lists(frame: Frame, settings: VaspSettings) -> None:
    """Refuse moments of single atoms where POSCAR has the atoms in another order than the frame.

    Raises:
        ValueError: MAGMOM is a list, and the species of the frame do not stand together.
    """
    listed = isinstance(settings.incar.get("MAGMOM"), tuple | str)
    if listed and grouped(frame) != list(range(len(frame))):
        raise ValueError(
            "incar.MAGMOM lists atoms in the order of POSCAR, which groups species, and this frame does not: "
            "sort its atoms by species"
        )


def write_inputs(directory: Path, frame: Frame, settings: VaspSettings, incar: Mapping[str, IncarValue]) -> None:
    """Write INCAR, KPOINTS and POSCAR; POTCAR is the user's to add, in the order of the species in POSCAR.

    Args:
        directory: is made.
        frame: the geometry.
        settings: level of theory, with a mesh.
        incar: tags.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in input_texts(frame, settings, incar).items():
        write_atomically(directory / name, text)


def input_texts(frame: Frame, settings: VaspSettings, incar: Mapping[str, IncarValue]) -> dict[str, str]:
    """The text of each input file but POTCAR, by its name."""
    return {"INCAR": incar_text(incar), "KPOINTS": kpoints_text(settings), "POSCAR": poscar_text(frame)}


def vasp_label_id(
    frame: Frame, settings: VaspSettings, stencil: Stencil | Method, potcars: Mapping[str, Pseudopotential]
) -> str:
    """Name of a label: hash of the geometry and of what determines its numbers.

    Args:
        frame: the geometry.
        settings: level of theory, with a mesh.
        stencil: field points, or the method of a response in one run.
        potcars: the file of each element; empty where they are not at hand.
    """
    return label_name(frame, vasp_inputs_hash(settings, stencil, potcars))


def vasp_inputs_hash(settings: VaspSettings, stencil: Stencil | Method, potcars: Mapping[str, Pseudopotential]) -> str:
    """Hash of the level of theory and the fields.

    POTCAR files enter by their content; by library and name where they are not at hand.
    """
    fields: Any = stencil
    if isinstance(stencil, Stencil):
        fields = {name: [float(v) for v in field] for name, field in stencil.points().items()}
    identity = settings.identity()
    if potcars:
        named = {"potcars": {element: one.sha256 for element, one in potcars.items()}, "potcar_functional": None}
        identity |= named
    return content_hash({"code": CODE, "settings": identity, "fields": fields})


def planned_provenance(
    settings: VaspSettings, stencil: Stencil | Method, potcars: Mapping[str, Pseudopotential]
) -> Provenance:
    """What is known of a label before anything is run.

    Args:
        settings: level of theory, with a mesh.
        stencil: field points, or the method of a response in one run.
        potcars: the file of each element; empty where they are not at hand.
    """
    # The mesh and the files are compared apart.
    shared = {name: value for name, value in settings.identity().items() if name not in ("kpoints", "potcars")}
    return Provenance(
        code=CODE,
        protocol=settings.protocol,
        inputs_hash=vasp_inputs_hash(settings, stencil, potcars),
        settings_hash=content_hash(shared)[:16],
        kpoints=settings.mesh,
        pseudopotentials={element: one.sha256 for element, one in potcars.items()},
        pseudopotential_family=family_hash(potcars) if potcars else "",
    )


def _words(value: IncarValue) -> str:
    if isinstance(value, bool):
        return f".{str(value).upper()}."
    if isinstance(value, tuple):
        return " ".join(f"{item:.10g}" for item in value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)
