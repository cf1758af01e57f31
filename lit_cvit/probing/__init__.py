"""Runs a method to collect what `analysis` looks at: features and gates."""
