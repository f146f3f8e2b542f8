"""What determines the numbers of a ph.x run beyond those of its SCF, and how ph.x is run here."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from ..code import PwCode


class PhSettings(BaseModel):
    """The linear response to a field.

    Attributes:
        tr2_ph: threshold on the squared residual of the potential.
        alpha_mix: mixing of the potential.
        niter_ph: most iterations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tr2_ph: PositiveFloat = 1e-14
    alpha_mix: Annotated[float, Field(gt=0, le=1)] = 0.7
    niter_ph: PositiveInt = 100

    def identity(self) -> dict[str, Any]:
        """What enters the identity of a label."""
        return self.model_dump(mode="json", exclude={"niter_ph"})


class PhCode(BaseModel):
    """How pw.x and ph.x are run here; nothing of this changes a number.

    Attributes:
        pw: how pw.x is run; launcher, limits and environment hold for ph.x too.
        command: the program; where empty, ``ph.x`` where the command of pw.x says ``pw.x``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pw: PwCode = PwCode()
    command: str = ""

    @property
    def ph(self) -> PwCode:
        """The code with ph.x as its program."""
        words = shlex.split(self.command or self.pw.command)
        if not self.command:
            words = [f"{word.removesuffix('pw.x')}ph.x" if word.endswith("pw.x") else word for word in words]
        return self.pw.model_copy(update={"command": shlex.join(words)})
