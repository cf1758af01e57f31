"""The command line: configuration, shipped files, error messages, and the way back into a run."""
