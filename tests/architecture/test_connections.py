"""Every connection of ours is a SafeConnection, but for those that say why they are none."""

from __future__ import annotations

from paths import ROOT

PACKAGES = ("migrations", "monitoring", "producers", "worker")
#: An index's own session, which sets its path itself; a completion, which sets it in its one transaction; and the demo, which is
#: the application.
OTHERS = {
    "migrations/postgres/connect.py",
    "producers/completion.py",
    "producers/demo/application.py",
    "producers/demo/site.py",
}


def test_nothing_connects_by_itself() -> None:
    connecting = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if "psycopg.connect(" in file.read_text(encoding="utf-8")
    }
    assert connecting == OTHERS
