"""Named levels of theory, one YAML file each."""
