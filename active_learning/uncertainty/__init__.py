"""How unsure a model is, in physical units, and how far that can be believed."""
