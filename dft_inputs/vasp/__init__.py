"""VASP: inputs of runs in finite fields and by DFPT, and labels from their outputs.

No VASP was at hand when this was written: what rests on its documentation alone is confirmed on a user's machine by
``fieldloop doctor --vasp`` (see ``verdict``).
"""
