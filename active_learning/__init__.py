"""Which frames are worth a DFT calculation. Usable from a notebook without any workflow engine."""
