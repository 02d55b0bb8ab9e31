"""Give a table another set of policies.

verify    lanes count what each persona may do with every row now and then, without touching a policy
switch    DROP and CREATE POLICY in one transaction; some rows are counted in it as each persona, then all rows by lanes
contract  with `keep_both` the old policies are dropped here, and otherwise nothing is done

The way back makes the old policies again, with their comments and with row level security as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Guard, Plain, Walk
from backfilld.migrations.operations.ddl import policies as ddl
from backfilld.migrations.operations.ddl import tables
from backfilld.migrations.policies import rules
from backfilld.migrations.policies.comparison import WRONG, become, first_rows
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from backfilld.migrations.facts import OtherTable, PolicyChange, UncountedTable
    from backfilld.migrations.operations.base import Statement, Step
    from backfilld.migrations.postgres.policies import Persona, Policy, PolicySet


@dataclass(frozen=True, kw_only=True)
class ReplacePolicies(Plain[file.ReplacePolicies]):
    """A `replace_policies` of a migration, bound to a database."""

    @property
    def old(self) -> PolicySet:
        return self._change.old

    @property
    def new(self) -> PolicySet:
        """The set that is left at last."""
        return self._change.new

    @property
    def switched(self) -> PolicySet:
        """The set from the switch on."""
        return rules.both(self.old, self.new) if self.definition.keep_both else self.new

    @property
    def stages(self) -> tuple[tuple[Phase, PolicySet], ...]:
        """The sets that come into force, each with the phase in which it does."""
        switch = (Phase.SWITCH, self.switched)
        return (switch, (Phase.CONTRACT, self.new)) if self.switched != self.new else (switch,)

    @property
    def personas(self) -> tuple[Persona, ...]:
        return self._change.personas

    @property
    def others(self) -> tuple[OtherTable, ...]:
        """Tables whose policies read this one."""
        return self._change.others

    @property
    def uncounted(self) -> tuple[UncountedTable, ...]:
        """Those of which nobody can tell what becomes of them."""
        return self._change.uncounted

    def verify(self) -> tuple[Step, ...]:
        note = "counts what each persona may do with every row, now and then; no policy is touched"
        return (Walk(kind="compare", operation=self.number, table=self.table, key=self.facts.key, note=note),)

    def switch(self) -> tuple[Step, ...]:
        change = self._action(self.old, self.switched)
        note = "looks at every row as each persona: whether it really sees what was predicted"
        return (change, Walk(kind="confirm", operation=self.number, table=self.table, key=self.facts.key, note=note))

    def contract(self) -> tuple[Step, ...]:
        return (self._action(self.switched, self.new),) if self.switched != self.new else ()

    @property
    def _change(self) -> PolicyChange:
        if self.facts.policies is None:
            msg = f"nothing is known of the policies of {self.table}"
            raise LookupError(msg)
        return self.facts.policies

    def _action(self, before: PolicySet, after: PolicySet) -> Action:
        """From one set to the other, all at once; taken back where a persona then sees other rows than the rules say."""
        return Action(
            table=self.table,
            statements=self._statements(before, after),
            requires=(
                Guard(
                    sql=before.differs(self.table),
                    template="its policies are not what they were when the migration was enqueued: {!r} is another",
                    remedy="Nothing was changed. Roll the run back, and enqueue the migration again under another name",
                ),
            ),
            guards=(
                Guard(
                    sql=after.differs(self.table),
                    template="PostgreSQL has not made the policies that were predicted: {!r} is another",
                    remedy="Nothing was changed. Report it with the output of `backfilld plan`",
                ),
                *(self._sees_what_was_predicted(persona, after) for persona in self.personas),
            ),
            back=(Action(table=self.table, statements=self._statements(after, before, again=True), frees=True),),
        )

    def _statements(self, before: PolicySet, after: PolicySet, *, again: bool = False) -> tuple[Statement, ...]:
        """Policies that are in both sets are left alone. On the way back (`again`) nothing is said to be there still."""
        kept = {policy.name for policy in after.policies if _of(before, policy.name) == policy}
        dropped = [policy.name for policy in before.policies if policy.name not in kept]
        if again:
            dropped += [policy.name for policy in after.policies if policy.name not in {*kept, *dropped}]
        switches = [
            *(["ENABLE"] if after.enabled and not before.enabled else []),
            *(["FORCE"] if after.forced and not before.forced else []),
            *(["NO FORCE"] if before.forced and not after.forced else []),
            *(["DISABLE"] if before.enabled and not after.enabled else []),
        ]
        return (
            *(ddl.drop(self.table, name, if_exists=again) for name in dropped),
            *(one for policy in after.policies if policy.name not in kept for one in ddl.create(self.table, policy)),
            *(tables.row_security(self.table, what) for what in switches),
        )

    def _sees_what_was_predicted(self, persona: Persona, after: PolicySet) -> Guard:
        """Some rows are asked, the first by their key: the lock is held meanwhile."""
        ends, comparison, upto = first_rows(self.table, self.facts.key)
        return Guard(
            before=(
                *ends,
                *comparison.rows(),
                *comparison.rules(persona, None, after, seen=upto, really="later"),
                *become(persona),
            ),
            sql=WRONG,
            template=f"{persona.name} would not see what was predicted: {{!r}} rows",
            remedy="Nothing was changed. See docs/policies.md, or `backfilld rollback`",
            names_rows=True,
        )


def _of(set_: PolicySet, name: str) -> Policy | None:
    return next((policy for policy in set_.policies if policy.name == name), None)
