"""SYNTHETIC vasp_std: behaves as VASP does in what matters to an engine, on the model crystal of ``synthetic_vasp``.

It reads INCAR, POSCAR, KPOINTS and POTCAR where it is started, refuses what VASP refuses, starts from a WAVECAR where
there is one, and writes OUTCAR, vasprun.xml, CONTCAR and WAVECAR. The variable VASP_DOUBLE, words of ``fault`` or
``fault@condition`` apart by commas, tells it what to do wrong (see ``main``); a condition is ``zero`` or ``field``.
"""

import hashlib
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
from synthetic_vasp import CELL, SITES, SPECIES, Crystal, Faults, Setup, write_run

KNOWN = (
    "ALGO PREC ENCUT EDIFF NELM ISMEAR SIGMA LREAL LASPH ISYM IBRION NSW ISIF LWAVE LCHARG LCALCPOL EFIELD_PEAD "
    "LEPSILON LPEAD LRPA LCALCEPS GGA ISPIN MAGMOM NPAR KPAR NCORE LDAU"
)
SCRATCH_ITERATIONS, WARM_ITERATIONS = 9, 4


def stop(words: str, status: int = 1) -> None:
    print(
        f" -----------------------------------------------------------------------------\n|     {words}\n", flush=True
    )
    sys.exit(status)


def read_tags() -> dict[str, str]:
    pairs = [line.split("=", 1) for line in Path("INCAR").read_text().splitlines() if "=" in line]
    tags = {tag.strip().upper(): value.split("#")[0].strip() for tag, value in pairs}
    if unknown := sorted(set(tags) - set(KNOWN.split())):
        stop(f"ERROR: unknown tag {unknown[0]} in INCAR")
    return tags


def read_crystal() -> tuple[Crystal, tuple[int, ...]]:
    """The model at the positions of POSCAR, and the site of each atom."""
    lines = Path("POSCAR").read_text().splitlines()
    cell = np.array([line.split() for line in lines[2:5]], dtype=float)
    counts = zip(lines[5].split(), map(int, lines[6].split()), strict=True)
    species = [symbol for symbol, n in counts for _ in range(n)]
    rows = np.array([line.split()[:3] for line in lines[8 : 8 + len(species)]], dtype=float)
    positions = rows if lines[7].lower().startswith("c") else rows @ cell
    if np.abs(cell - CELL).max() > 1e-6 or sorted(species) != sorted(SPECIES):
        stop("this synthetic VASP knows one crystal, and this is another")
    order, shift = [], np.zeros((4, 3))
    for symbol, position in zip(species, positions, strict=True):
        fractional = position @ np.linalg.inv(CELL) - SITES
        moves = (fractional - np.round(fractional)) @ CELL
        free = [s for s in range(4) if SPECIES[s] == symbol and s not in order]
        site = min(free, key=lambda s: float(np.linalg.norm(moves[s])))
        order.append(site)
        shift[site] = moves[site]
    return Crystal(shift=shift), tuple(order)


def read_potcar(species: list[str]) -> tuple[dict[str, str], dict[str, float]]:
    text = Path("POTCAR").read_text()
    titles = re.findall(r"TITEL\s*=\s*(\S.*?)\s*$", text, re.MULTILINE)
    valences = re.findall(r"ZVAL\s*=\s*([\d.]+)", text)
    found = [title.split()[1].split("_")[0] for title in titles]
    if found != species:
        stop(f"ERROR: the type information on POSCAR and POTCAR are incompatible: {species} {found}", 0)
    return dict(zip(found, titles, strict=True)), dict(zip(found, map(float, valences), strict=True))


def read_mesh() -> tuple[int, int, int]:
    lines = Path("KPOINTS").read_text().splitlines()
    if not lines[2].strip().lower().startswith("g"):
        stop("PEAD routines are only implemented for Gamma-centred grids")
    n1, n2, n3 = map(int, lines[3].split())
    return n1, n2, n3


def orbitals(crystal: Crystal, mesh: tuple[int, int, int]) -> str:
    """What a WAVECAR of this mesh begins with; another one is not read."""
    return hashlib.sha256(repr((len(crystal.shift), mesh)).encode()).hexdigest()


def faults_at(field: np.ndarray) -> set[str]:
    words = (word.partition("@") for word in os.environ.get("VASP_DOUBLE", "").split(",") if word)
    here = "field" if field.any() else "zero"
    return {fault for fault, _, condition in words if condition in ("", here)}


def check(tags: dict[str, str], field: np.ndarray, crystal: Crystal, mesh: tuple[int, int, int]) -> None:
    if field.any() and tags.get("ISYM", "2") not in ("-1", "0"):
        stop("EFIELD_PEAD needs ISYM = -1")
    if field.any() and crystal.gap <= 0:
        stop("ERROR: Your system is metallic, EFIELD_PEAD cannot be used")
    drops = np.abs(CELL @ field) * np.array(mesh)
    if crystal.gap > 0 and drops.max() > crystal.gap / 10:
        print(" |      One or more components of EFIELD_PEAD is too large for comfort, in all |")


def wait_for_stop(iterations: int) -> int:
    """As many iterations as were made when LABORT came."""
    for _ in range(600):
        if Path("STOPCAR").is_file() and "LABORT" in Path("STOPCAR").read_text():
            return iterations // 2
        time.sleep(0.05)
    return iterations


def main() -> None:
    """Run once.

    Faults: ``die`` (a message and an exit status), ``mute`` (a message and status 0), ``crash`` (a signal), ``slow``
    (until STOPCAR tells it to end, unless it starts from a WAVECAR), ``stubborn`` (converges by ALGO = All alone).
    """
    if missing := [name for name in ("INCAR", "POSCAR", "KPOINTS", "POTCAR") if not Path(name).is_file()]:
        stop(f"forrtl: severe (29): file not found, {missing[0]}")
    tags = read_tags()
    crystal, order = read_crystal()
    species = list(dict.fromkeys(SPECIES[site] for site in order))
    titles, valences = read_potcar(species)
    mesh = read_mesh()
    # EFIELD_PEAD is a force field: what pushes an electron.
    field = -np.array(tags.get("EFIELD_PEAD", "0 0 0").split(), dtype=float)
    if tags.get("LCALCEPS", "F").strip(".").startswith("T"):
        field = np.zeros(3)
    faults = faults_at(field)
    print(" running on    1 total cores\n vasp.6.4.2 SYNTHETIC complex", flush=True)
    check(tags, field, crystal, mesh)
    head = orbitals(crystal, mesh)
    warm = Path("WAVECAR").is_file() and Path("WAVECAR").read_text().startswith(head)
    print(" WAVECAR found, reading the header" if warm else " WAVECAR not read", flush=True)
    iterations, nelm = WARM_ITERATIONS if warm else SCRATCH_ITERATIONS, int(tags.get("NELM", "60"))
    Path("OUTCAR").write_text(" vasp.6.4.2 SYNTHETIC, not of a run of VASP\n")
    if "slow" in faults and not warm:
        iterations = wait_for_stop(iterations)
    if "die" in faults:
        stop("VERY BAD NEWS! internal error in subroutine SGRCON: Found some non-integer element", 1)
    if "mute" in faults:
        stop("Error EDDDAV: Call to ZHEGV failed. Returncode =  14", 0)
    if "crash" in faults:
        os.abort()
    setup = Setup(
        order=order,
        mesh=mesh,
        titles=titles,
        valences=valences,
        nspin=int(tags.get("ISPIN", "1")),
        nelm=nelm,
        iterations=min(iterations, nelm),
        last_change=4e-10 if iterations <= nelm else 1e-3,
        dipoles=tags.get("LCALCPOL", "F").strip(".").startswith("T"),
    )
    stopped = Path("STOPCAR").is_file()
    Path("STOPCAR").unlink(missing_ok=True)  # whether VASP does so is not known
    unconverged = iterations > nelm or stopped or ("stubborn" in faults and tags.get("ALGO") != "All")
    response = any(tags.get(tag, "F").strip(".").startswith("T") for tag in ("LEPSILON", "LCALCEPS"))
    seed = int.from_bytes(hashlib.sha256(np.round(crystal.shift, 6).tobytes()).digest()[:4], "big")
    write_run(Path(), crystal, field, Faults(unconverged=unconverged, born=response, seed=seed), setup=setup)
    if tags.get("LWAVE", "T").strip(".").startswith("T"):
        Path("WAVECAR").write_text(head + "0" * 4096)


if __name__ == "__main__":
    main()
