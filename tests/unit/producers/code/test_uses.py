"""Where an application names what a migration changes. Behind each line of the samples stands what it uses, and nothing else may be found."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from backfilld.migrations.errors import UsageError
from backfilld.migrations.file import migration as definition
from backfilld.producers.cli import app
from backfilld.producers.code import postgrest, sql_text
from backfilld.producers.code.uses import uses

if TYPE_CHECKING:
    from pathlib import Path

MIGRATION = """
name: jobs-change
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
  - change_type: {table: jobs, column: details, type: jsonb}
  - drop_column: {table: jobs, column: status}
  - rename_table: {table: orders, to: purchases}
"""

SUPABASE_JS = """
import { createClient } from "npm:@supabase/supabase-js@2";
const JOBS = "jobs";
const db = createClient(URL, KEY);
export async function list(status: string) {
  const { data: rows, error } = await db.from(JOBS).select(`id, total, état:status, customers(status)`); //= status total
  if (error) return new Response("failed", { status: 500 });
  return rows?.map(({ total, id }) => ({ sum: total, id })).filter((row) => row.sum > 3); //= total
}
let query = db.from("jobs").select();
if (flag) query = query.gt("total", 3).or("status.eq.a,and(total.gt.3,id.eq.2)"); //= status total
const { data } = await query;
for (const row of data ?? []) console.log(row.status, row["details"], row.other); //= details status
const patch = { status: "done", total: 3 }; //= status total
await db.from("jobs").update(patch).match({ status: "x" }); //= status
await db.from("jobs").upsert([{ id: 1, details }], { onConflict: "id,status" }); //= details status
await db.from("jobs").insert(items.map((item) => ({ total: item.total }))); //= total
await db.from("jobs").insert(items.map((item) => { return { status: item.state }; })); //= status
await db.from("customers").select("status, jobs(total)").eq("jobs.status", "x").eq("status", "y"); //= status total
await db.from("customers").select("jobs(id)").order("total", { referencedTable: "jobs" }); //= total
await db.from("customers").update({ status: "x", total: 4 }).eq("details", 3);
await db.schema("private").from("jobs").select("total");
db.channel("x").on("postgres_changes", { event: "*", schema: "public", table: "jobs", filter: "status=eq.done" }, //= status
  (payload) => show(payload.new.status)); //= status
db.from("jobs").select("id, details").then(({ data }) => render(data[0].details)); //= details
db.from("orders").select("id"); //= orders
db.storage.from("orders").upload("total");
const bytes = Buffer.from("orders");
const first = (await db.from("jobs").select("*").single()).data; first.total; //= total
"""

TYPES = """
type Job = Tables<"jobs">;
export const one = (job: Job) => job.total + job.details.length; //= details total
const several: Job[] = load(); several[0].status; //= status
type Status = Database["public"]["Tables"]["jobs"]["Row"]["status"]; //= status
type Customer = Database["public"]["Tables"]["customers"]["Row"]["status"];
type Part = Pick<Job, "id" | "total">; //= total
function of(order: Tables<"orders">) { return order.total; } //= orders
"""

QUERIES = """
const rows = await sql`select c.status, j.total from jobs j join customers c on c.id = j.id where j.status = ${s}`; //= status total
await pool.query("UPDATE jobs SET total = total + $1 WHERE id = $2", [1, 2]); //= total
await pool.query('INSERT INTO "jobs" (id, status) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING'); //= status
await pool.query("select status from customers where total > 3");
await pool.query("with jobs as (select 1 as total) select total from jobs");
await pool.query("select revenue as total from jobs order by total");
await pool.query("select id from other.jobs where status = 'x'");
const text = "select a total from the details of the status";
const jobs = pgTable("jobs", { id: integer("id"), state: text("status").notNull() }); //= status
select().from(jobs).where(eq(jobs.state, "x")); //= status
"""

PYTHON = '''
class Job(Base):
    __tablename__ = "jobs"
    id = Column(Integer)
    status = Column(String) #= status
    amount = Column("total", Numeric) #= total
    customer = relationship("Customer")

class Order(models.Model):
    total = models.DecimalField()
    class Meta:
        db_table = "orders" #= orders

def work(db, session, cursor):
    rows = db.table("jobs").select("id, total").eq("status", "x").execute().data #= status total
    for row in rows:
        print(row["total"], row.get("status"), row["id"]) #= status total
    done = [row["details"] for row in rows if row["status"] == "done"] #= details status
    session.scalars(select(Job).where(Job.status == "x")).all() #= status
    session.query(Job).filter_by(status="x").first().amount #= status total
    cursor.execute("select status from jobs where id = %s and total > %(least)s", values) #= status total
    cursor.execute("""
        delete from jobs
        where status = 'x' --= status
    """)
    cursor.execute("update customers set status = 'x'")
    db.table("jobs").insert({"status": "x", "total": 1}).execute() #= status total
    db.from_("jobs").select("id").not_.is_("details", "null").execute() #= details
    Job(status="x") #= status
    response = requests.get("x"); response.status; print("total")
'''


def _found(folder: Path, name: str, sample: str) -> tuple[dict[int, set[str]], dict[int, set[str]]]:
    """What each line uses, as it was found and as the sample says."""
    marker = re.compile(r"\s*(?://|#|--)=(.*)$")
    lines = sample.splitlines()
    (folder / name).write_text("\n".join(marker.sub("", line) for line in lines), encoding="utf-8")
    found: dict[int, set[str]] = {}
    for use in uses(definition.parse(MIGRATION), [folder]).certain:
        found.setdefault(use.line, set()).add(use.change.name)
    said = {number: set(said[1].split()) for number, line in enumerate(lines, 1) if (said := marker.search(line))}
    return found, said


@pytest.mark.parametrize(
    ("name", "sample"),
    [("index.ts", SUPABASE_JS), ("types.ts", TYPES), ("queries.tsx", QUERIES), ("work.py", PYTHON)],
    ids=["supabase-js", "types", "queries", "python"],
)
def test_the_lines_that_use_a_column_are_found_and_no_others(name: str, sample: str, tmp_path: Path) -> None:
    found, said = _found(tmp_path, name, sample)

    assert found == said


def test_a_word_alone_is_a_mention_and_a_column_of_another_table_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_text(
        'await db.from("customers").select("status");\n'
        "// the status of a job\n"
        'await db.from("jobs").select("status");\n'
        "const statuses = 3;\n",
        encoding="utf-8",
    )
    found = uses(definition.parse(MIGRATION), [tmp_path])

    assert [(one.line, one.how) for one in found.certain] == [(3, "select")]
    assert [one.line for one in found.mentions] == [2]


def test_a_place_is_told_in_characters_also_behind_letters_of_several_bytes(tmp_path: Path) -> None:
    text = 'const ü = "é💥"; db.from("jobs").select("id,\\u00e9:total");\n'
    (tmp_path / "a.ts").write_text(text, encoding="utf-8")
    (use,) = uses(definition.parse(MIGRATION), [tmp_path]).certain

    assert text[use.column - 1 :].startswith("total")


def test_files_of_sql_are_read_and_other_peoples_code_is_not(tmp_path: Path) -> None:
    (tmp_path / "queries.sql").write_text("SELECT total\nFROM jobs;\nSELECT status FROM customers;\n", encoding="utf-8")
    (tmp_path / "broken.sql").write_text("SELECT total FRM jobs WHERE (;\n", encoding="utf-8")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "a.ts").write_text('db.from("jobs").select("total")', encoding="utf-8")
    (tmp_path / "latin.ts").write_bytes(b'db.from("jobs").select("total") // \xe9')
    found = uses(definition.parse(MIGRATION), [tmp_path])

    assert [(one.file.name, one.line) for one in found.certain] == [("queries.sql", 1)]
    assert [one.file.name for one in found.mentions] == ["broken.sql"]
    assert {one.file.name for one in found.unread} == {"broken.sql", "latin.ts"}


def test_the_verb_prints_json_and_fails_where_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MIGRATION, encoding="utf-8")
    code = tmp_path / "src"
    code.mkdir()
    (code / "a.ts").write_text('db.from("jobs").select("total")', encoding="utf-8")
    command = ["uses", str(tmp_path / "m.yaml"), "--in", str(code)]

    plain = CliRunner().invoke(app, command)
    assert plain.exit_code == 0
    assert f"{code / 'a.ts'}:1:25" in plain.output
    answer = CliRunner().invoke(app, [*command, "--json", "--fail"])
    assert answer.exit_code == 1
    (use,) = json.loads(answer.output)["certain"]
    assert (use["line"], use["names"], use["becomes"], use["how"]) == (1, "jobs.total", "revenue", "select")


def test_without_the_extra_the_word_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ast_grep_py", None)

    with pytest.raises(UsageError, match=r"pip install 'backfilld\[application\]'"):
        uses(definition.parse(MIGRATION), [tmp_path])


def test_a_path_that_is_not_there_is_a_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        uses(definition.parse(MIGRATION), [tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("id, state:status", ["id", "status"]),
        ("details->>a, total::text, amount.sum(), count()", ["details", "total", "amount"]),
        ("id, c:customers!inner(name, parts(total)), status", ["id", "customers.name", "parts.total", "status"]),
        ("*, ...customers(name)", ["customers.name"]),
        ('"Order", id', ["Order", "id"]),
        ("", []),
        ("((", []),
    ],
)
def test_columns_of_a_select(text: str, columns: list[str]) -> None:
    found = postgrest.selected(text).columns

    assert [f"{one.embedded}.{one.name}".lstrip(".") for one in found] == columns
    assert all(text[one.at :].lstrip('"').startswith(one.name) for one in found)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("status.eq.done,and(total.gt.3,jobs.paid.is.true)", ["status", "total", "jobs.paid"]),
        ("details->>a.in.(x,y),not.and(z.not.is.null)", ["details", "z"]),
    ],
)
def test_columns_of_a_condition(text: str, columns: list[str]) -> None:
    found = list(postgrest.conditions(text))

    assert [f"{one.embedded}.{one.name}".lstrip(".") for one in found] == columns
    assert all(text[one.at :].startswith(one.name) for one in found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("select x from a, b", set()),  # of which of the two, the text does not say
        ("select a.x from a, b", {("a", "x")}),
        ("update a set x = b.y from b where b.z = a.w", {("a", "x"), ("b", "y"), ("b", "z"), ("a", "w")}),
        (
            "insert into a (x) values (1) on conflict (y) do update set z = excluded.z",
            {("a", "x"), ("a", "y"), ("a", "z")},
        ),
        ("select (select b.y from b where b.k = a.k) from a", {("b", "y"), ("b", "k"), ("a", "k")}),
        ('select X, "X" from A', {("a", "x"), ("a", "X")}),
    ],
)
def test_columns_of_sql(text: str, wanted: set[tuple[str, str]]) -> None:
    assert {(one.table, one.column) for one in sql_text.named(text) if one.column} == wanted
