"""Small helpers that every package may use; nothing here imports another package of ours."""
