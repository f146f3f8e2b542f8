"""Where frames come from: first seeds, and later what the dynamics meets."""
