"""Building blocks of the enthalpy network, one subject a file."""
