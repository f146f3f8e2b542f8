"""Which mesh, cutoff, field step and SCF threshold give Z* and eps_inf to a wanted accuracy, and what they cost."""
