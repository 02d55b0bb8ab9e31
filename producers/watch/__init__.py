"""`backfilld watch` on a terminal: a full-screen view of the runs, with keys for the verbs.

Import it only where it is shown: it imports textual.
"""

from backfilld.producers.watch.screen import Watch

__all__ = ["Watch"]
