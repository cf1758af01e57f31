"""Small helpers that every room may use; nothing here imports another room."""
