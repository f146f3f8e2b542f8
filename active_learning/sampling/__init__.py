"""Where frames come from: the sources of first frames, one file each, and their union in ``sources``."""
