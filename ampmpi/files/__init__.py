"""Files and folders that other processes use at the same time; nothing here knows a database."""
