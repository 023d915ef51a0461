"""The archive: one file of entries, as bytes; nothing here knows loose files or descriptors."""
