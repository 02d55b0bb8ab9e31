"""The load signals: what is known of the application's day. Measures; what follows is the governor's to decide.

`database` asks the server, `statements` what others' statements took, `custom` what the operator named; the commit latency of a canary is the governor's own, as it
writes.
"""

from backfilld.monitoring.probes.custom import Custom
from backfilld.monitoring.probes.database import STANDBYS, Database, Scene
from backfilld.monitoring.probes.lag import History, replica_lag
from backfilld.monitoring.probes.reading import Reading, unreadable
from backfilld.monitoring.probes.statements import Span, Spent, Statements

__all__ = [
    "STANDBYS",
    "Custom",
    "Database",
    "History",
    "Reading",
    "Scene",
    "Span",
    "Spent",
    "Statements",
    "replica_lag",
    "unreadable",
]
