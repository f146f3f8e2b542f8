"""From labels to an electric-enthalpy network, its exact responses and dynamics in any field.

Needs no workflow engine.
"""
