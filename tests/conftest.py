"""Fixtures live in one plugin per subject."""

import signal

pytest_plugins = [
    "fix_postgres",
    "fix_redis",
    "fix_proxy",
    "fix_daemon",
    "fix_runs",
    "fix_golden",
    "fix_prometheus",
    "fix_scene",
]

# Started in the background of a script, the tests inherit an ignored SIGINT, and so would every process they press Ctrl-C on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
