"""A report of the shop's jobs, as it is before the migration of `jobs_code.yaml`."""

from typing import Any

from models import Jobs
from psycopg import Connection


def largest(connection: Connection[dict[str, Any]]) -> list[Jobs]:
    """The jobs that bring in most."""
    found = connection.execute("SELECT * FROM jobs ORDER BY total DESC LIMIT 10")
    return [Jobs(**row) for row in found]


def total_of(jobs: list[Jobs]) -> int:
    """What they bring in, in cents."""
    return sum(job.total for job in jobs)
