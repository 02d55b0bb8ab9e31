"""Fixtures live in one plugin per subject."""

pytest_plugins = ["fix_postgres", "fix_redis", "fix_proxy", "fix_daemon", "fix_runs"]
