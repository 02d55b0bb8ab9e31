"""The application's code around a migration: the lines that name what changes, the module that reads either schema, its types."""
