"""``fieldloop doctor --vasp``: does this VASP take fields as the labels assume? Run once by whoever has a licence."""

from __future__ import annotations

from pathlib import Path

from ..dft_inputs.vasp.results import VaspOutputError
from ..dft_inputs.vasp.verdict import judge_trial_runs, write_trial_runs
from .doctor import Finding

_NAME = "VASP"


def examine_vasp(folder: Path) -> list[Finding]:
    """Write the trial runs where there are none, judge them where they are done.

    Args:
        folder: of the runs; made.
    """
    if not folder.exists() or not any(folder.iterdir()):
        runs = ", ".join(run.name for run in write_trial_runs(folder))
        todo = "add POTCAR (Mg, then O) to each, run vasp_std in each, then call this command again"
        return [Finding(_NAME, "warn", f"inputs of six runs of MgO written to {folder}: {runs}", todo)]
    try:
        verdicts = judge_trial_runs(folder)
    except VaspOutputError as error:
        return [Finding(_NAME, "fail", str(error), "run VASP there, or remove the folder to begin anew")]
    return [Finding(one.name, "ok" if one.ok else "fail", one.detail, "" if one.ok else one.fix) for one in verdicts]
