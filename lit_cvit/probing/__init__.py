"""Runs a method to collect what `analysis` compares: features and gates."""
