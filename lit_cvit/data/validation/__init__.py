"""Every record and image of a benchmark is checked before anything is trained."""
