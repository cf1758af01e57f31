"""Record files: parsed, indexed, and read as samples."""
