"""The fingerprint database: one directory, many processes."""
