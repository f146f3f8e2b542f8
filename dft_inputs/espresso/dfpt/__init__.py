"""Labels by density-functional perturbation theory: Z* and the polarizability from ph.x, without field or branch."""

from .labels import label_frame_dfpt
from .outputs import PhOutput, read_ph_output
from .settings import PhCode, PhSettings

__all__ = ["PhCode", "PhOutput", "PhSettings", "label_frame_dfpt", "read_ph_output"]
