"""`backfilld watch` on a terminal: a full-screen view of the runs, with keys for what a person does to them.

Import it only where it is shown: it brings textual along.
"""

from backfilld.producers.watch.screen import Watch

__all__ = ["Watch"]
