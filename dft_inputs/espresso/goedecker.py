"""Goedecker pseudopotentials (``.gth``, pspcod 10) as UPF files, for programs that go wrong with the analytic form.

ph.x 6.7 differentiates the analytic projectors wrongly (silicon: Z* of -0.6 e instead of 0); tabulated, the same
pseudopotential gives the same energies in pw.x and right responses in ph.x.

Formulas: Hartwigsen, Goedecker, Hutter, PRB 58, 3641 (1998), equations 1, 3 and 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import gamma, sqrt
from pathlib import Path

import numpy as np
from scipy.special import erf

from ..files import write_atomically
from .parsing import NUMBER, to_float

_LABELS = "SPDF"
_STEP, _FIRST, _LAST = 0.0125, 1e-4, 60.0
"""Logarithmic mesh, bohr."""
_LEADING = re.compile(rf"\s*((?:{NUMBER}(?:\s+|$))*)")


@dataclass(frozen=True)
class Goedecker:
    """The parameters of one file, in Hartree atomic units.

    Attributes:
        element: chemical symbol.
        z_atom, z_valence: charges.
        r_local: radius of the local part.
        coefficients: C_1... of the local part.
        channels: radius and symmetric matrix h_ij of the projectors of each l.
    """

    element: str
    z_atom: float
    z_valence: float
    r_local: float
    coefficients: tuple[float, ...]
    channels: tuple[tuple[float, np.ndarray], ...]


def read_goedecker(path: Path) -> Goedecker:
    """Read a ``.gth`` file.

    Raises:
        ValueError: not such a file.
    """
    lines = path.read_text().splitlines()
    try:
        element = lines[0].split()[-1]
        z_atom, z_valence = _numbers(lines[1])[:2]
        if int(_numbers(lines[2])[0]) != 10:
            raise ValueError("pspcod is not 10")
        r_local, count, *coefficients = _numbers(lines[3])
        channels, row = [], 5
        for l in range(int(_numbers(lines[4])[0])):  # noqa: E741
            radius, size, *first = _numbers(lines[row])
            matrix = np.zeros((int(size), int(size)))
            for i in range(int(size)):
                values = first if i == 0 else _numbers(lines[row + i])
                matrix[i, i:] = matrix[i:, i] = values[: int(size) - i]
            channels.append((radius, matrix))
            # For l > 0 as many lines of spin-orbit coefficients follow.
            row += max(1, int(size)) + (int(size) if l > 0 else 0)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: no Goedecker pseudopotential of pspcod 10 ({error})") from error
    return Goedecker(element, z_atom, z_valence, r_local, tuple(coefficients[: int(count)]), tuple(channels))


def write_upf(source: Path, target: Path) -> Path:
    """Tabulate a ``.gth`` file as UPF, without atomic wavefunctions.

    Args:
        source: the ``.gth`` file, for the LDA, as all that pw.x reads.
        target: the UPF file.

    Raises:
        ValueError: ``source`` is no such file.
    """
    parameters = read_goedecker(source)
    write_atomically(target, _upf(parameters).encode())
    return target


def local_potential(parameters: Goedecker, r: np.ndarray) -> np.ndarray:
    """Equation 1, Hartree."""
    x = r / parameters.r_local
    polynomial = sum(c * x ** (2 * k) for k, c in enumerate(parameters.coefficients))
    return -parameters.z_valence / r * erf(x / sqrt(2)) + np.exp(-(x**2) / 2) * polynomial


def projector(l: int, i: int, radius: float, r: np.ndarray) -> np.ndarray:  # noqa: E741
    """Equation 3 for i = 1, 2, 3, normalized: the integral of (r p)^2 is one."""
    power = l + (4 * i - 1) / 2
    return sqrt(2) * r ** (l + 2 * (i - 1)) * np.exp(-((r / radius) ** 2) / 2) / (radius**power * sqrt(gamma(power)))


def _numbers(line: str) -> list[float]:
    """The numbers a line begins with."""
    match = _LEADING.match(line)
    return [to_float(token) for token in match[1].split()] if match else []


def _upf(parameters: Goedecker) -> str:
    size = int(np.log(_LAST / _FIRST) / _STEP) // 2 * 2 + 1
    r = _FIRST * np.exp(_STEP * np.arange(size))
    betas, blocks = [], []
    for l, (radius, matrix) in enumerate(parameters.channels):  # noqa: E741
        betas += [(l, r * projector(l, i + 1, radius, r)) for i in range(len(matrix))]
        blocks.append(2 * matrix)
    coupling = np.zeros((len(betas), len(betas)))
    start = 0
    for block in blocks:
        stop = start + len(block)
        coupling[start:stop, start:stop] = block
        start = stop
    # An atomic density for the SCF to start from; what it is matters little.
    density = 4 * np.pi * r**2 * np.exp(-(r**2) / 2) / (2 * np.pi) ** 1.5 * parameters.z_valence
    reach = int(np.searchsorted(r, 8.0)) // 2 * 2 + 1
    projectors = [
        f'<PP_BETA.{n} index="{n}" angular_momentum="{l}" label="{_LABELS[l]}" cutoff_radius_index="{reach}" '
        f'cutoff_radius="{r[reach - 1]:.6f}" ultrasoft_cutoff_radius="0.0">\n{_rows(beta)}</PP_BETA.{n}>\n'
        for n, (l, beta) in enumerate(betas, 1)  # noqa: E741
    ]
    return (
        '<UPF version="2.0.1">\n<PP_INFO>\nGoedecker pseudopotential, tabulated: '
        "Hartwigsen, Goedecker, Hutter, PRB 58, 3641 (1998)\n</PP_INFO>\n"
        f"{_header(parameters, size, len(betas))}"
        f'<PP_MESH dx="{_STEP}" mesh="{size}" xmin="{np.log(_FIRST * parameters.z_atom):.12e}" rmax="{r[-1]:.12e}" '
        f'zmesh="{parameters.z_atom}">\n<PP_R>\n{_rows(r)}</PP_R>\n<PP_RAB>\n{_rows(r * _STEP)}</PP_RAB>\n</PP_MESH>\n'
        f"<PP_LOCAL>\n{_rows(2 * local_potential(parameters, r))}</PP_LOCAL>\n"
        f"<PP_NONLOCAL>\n{''.join(projectors)}<PP_DIJ>\n{_rows(coupling.ravel())}</PP_DIJ>\n</PP_NONLOCAL>\n"
        f"<PP_PSWFC>\n</PP_PSWFC>\n<PP_RHOATOM>\n{_rows(density)}</PP_RHOATOM>\n</UPF>\n"
    )


def _header(parameters: Goedecker, size: int, projectors: int) -> str:
    attributes = {
        "generated": "from the parameters by fieldloop",
        "element": parameters.element,
        "pseudo_type": "NC",
        "relativistic": "scalar",
        "is_ultrasoft": "false",
        "is_paw": "false",
        "is_coulomb": "false",
        "has_so": "false",
        "has_wfc": "false",
        "has_gipaw": "false",
        "core_correction": "false",
        "functional": "SLA PZ NOGX NOGC",
        "z_valence": f"{parameters.z_valence:.6f}",
        "total_psenergy": "0.0",
        "wfc_cutoff": "0.0",
        "rho_cutoff": "0.0",
        "l_max": str(len(parameters.channels) - 1),
        "l_max_rho": "0",
        "l_local": "-3",
        "mesh_size": str(size),
        "number_of_wfc": "0",
        "number_of_proj": str(projectors),
    }
    return "<PP_HEADER\n" + "\n".join(f'{key}="{value}"' for key, value in attributes.items()) + "/>\n"


def _rows(values: np.ndarray) -> str:
    lines = [values[start : start + 4] for start in range(0, len(values), 4)]
    return "".join(" ".join(f"{value:.15e}" for value in line) + "\n" for line in lines)
