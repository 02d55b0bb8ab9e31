"""Physical backups: a chain recovers to the very moment of its mark, and what is wrong with one is found before a gate opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fix_backups import UNWATCHED

from backfilld.migrations.backups import prove

if TYPE_CHECKING:
    from fix_physical import Taken


def test_a_chain_is_proved_by_recovering_it_to_its_mark(chain: Taken) -> None:
    assert (chain.whole.kind, chain.incremental.kind) == ("full", "incremental")
    assert chain.incremental.parent == chain.whole.backup
    assert chain.incremental.bytes < chain.whole.bytes

    proved = prove.prove(chain.place, chain.incremental.backup, UNWATCHED)

    assert proved.level == "proved"
    assert proved.proof is not None
    assert {one["table"]: one["rows"] for one in proved.proof["tables"]} == {
        "Odd Schema.Order": 600,
        "parts_1": 50,
        "parts_2": 50,
    }
