"""The command line and the Python client: what enqueues migrations and tells runs what to do."""

from producers.client import Client

__all__ = ["Client"]
