"""The verbs of `python -m lit_cvit`: one module each, whose first line says what it does.

A verb's module imports torch, Lightning and the like only inside `run`, so that help is immediate.
"""
