"""The command line and the Python client: what enqueues migrations and tells runs what to do."""
