"""Ad-hoc SQL: what is asked, what is answered, and which SQL is let near the engine. Pure.

A query is one ``SELECT`` over the tables that :mod:`holdfast.reports.asking` names. What it may
call is a list, not a hope: no table function but those that make rows out of nothing or out of
their arguments, no function that tells of the engine or changes it, no table but ours. The engine
is shut by itself (:mod:`holdfast.reports.sandbox`); this says so earlier, and in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import msgspec
from msgspec import Struct

from holdfast.kernel.errors import Invalid

SQL_BYTES_MAX = 64 * 1024
Vintage = Literal["latest", "first"]
QueryFormat = Literal["json", "csv"]

TABLES = ("records", "events", "runs", "tasks")
"""The tables there always are; besides, each profile that has published is one."""

SHARED = (
    "record_id",
    "revision",
    "period_start",
    "period_end",
    "period_frequency",
    "run",
    "recorded_from",
)
"""The columns that records of every profile have."""

TABLE_FUNCTIONS = frozenset(
    {
        "generate_series",
        "json_each",
        "json_tree",
        "range",
        "repeat",
        "repeat_row",
        "summary",
        "unnest",
    }
)
REFUSED_FUNCTIONS = frozenset(
    {
        "current_query",
        "current_query_id",
        "current_setting",
        "currval",
        "getenv",
        "getvariable",
        "nextval",
        "parse_duckdb_log_message",
        "pg_sleep",
        "set_config",
        "setval",
        "sleep",
        "sleep_ms",
        "write_log",
    }
)
"""What tells of the engine, changes it, or waits."""

PATH_FUNCTIONS = ("->", "json", "array_extract", "struct_extract", "element_at", "map_extract")
"""How functions begin that take a part out of a value by its name."""
_PATH = re.compile(r"""[$"'/\[\].]""")

INFORMATION = frozenset({"columns", "tables"})
"""Of ``information_schema``."""


class Query(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``SELECT``, and the moment it is about.

    ``as_of`` (RFC 3339) or ``position`` (a size of the ledger) is the moment; without both it is
    now. ``vintage: first`` shows what was said first of each record. ``events_from`` leaves earlier
    entries out of the table ``events``.
    """

    sql: str
    as_of: str | None = None
    position: int | None = None
    vintage: Vintage = "latest"
    events_from: int = 0


class QueryColumn(Struct, frozen=True, kw_only=True):
    """A column of the answer, with the engine's word for its type."""

    name: str
    type: str


class TableUsed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A table that the query had before it: how many rows, and of which publication.

    ``sealed`` are the columns of personal fields, which no query's table has.
    """

    name: str
    rows: int
    profile: str = ""
    publication: int = 0
    sealed: list[str] = []


class QueryResult(Struct, frozen=True, kw_only=True):
    """The answer: everything as it was when the ledger had ``position`` entries.

    Where ``as_of`` was given, the records are what was published by then (``tables`` says which
    publication): the ledger may hear of it a little later.

    Numbers that JSON cannot carry exactly (decimals, whole numbers beyond 2⁵³) are text.
    """

    position: int
    as_of: str | None
    columns: list[QueryColumn]
    rows: list[list[Any]]
    row_count: int
    tables: list[TableUsed]


def mentioned(sql: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that the text has as whole words: more than it reads, never fewer."""
    told = sql.casefold()
    return [name for name in names if _word(name.casefold()).search(told)]


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![0-9a-z_]){re.escape(name)}(?![0-9a-z_])")


def tables_of(tree: dict[str, Any]) -> set[str]:
    """The names of the tables that parsed SQL reads, in small letters. One that the query makes
    itself is among them: within its own text the name may mean ours."""
    return {
        str(node.get("table_name", "")).casefold()
        for node in _nodes(tree.get("statements"))
        if node.get("type") == "BASE_TABLE"
    }


def identifier(profile: str) -> str:
    """A profile's name as an identifier that needs no quotes."""
    return profile.replace("-", "_").replace(".", "_")


def check_tree(
    tree: dict[str, Any],
    tables: Iterable[str],
    listed: Iterable[str],
    later: Iterable[str] = (),
) -> None:
    """``Invalid`` unless the parsed SQL is one ``SELECT`` that keeps to what it may.

    ``tree`` is what the engine's own parser made of it, ``listed`` the names to tell of, ``later``
    those of tables that were not there yet at the moment.
    """
    if tree.get("error"):
        message = " ".join(str(tree.get("error_message", "")).split())  # it is told in one line
        if tree.get("error_type") == "not implemented":
            raise refused("only one SELECT is answered")
        raise Invalid(f"cannot run the query: {message}", code="query-invalid")
    statements = tree.get("statements") or []
    if len(statements) != 1:
        raise refused("one SELECT is answered at a time")
    nodes = list(_nodes(statements))
    known = {name.casefold() for name in tables}
    known |= {name.casefold() for node in nodes for name in _introduced(node)}
    unborn = {name.casefold() for name in later} - known
    for node in nodes:
        name = str(node.get("table_name", ""))
        if node.get("type") == "BASE_TABLE" and name.casefold() in unborn:
            raise Invalid(
                f"cannot run the query: nothing of {name[:80]!r} was published by then",
                code="query-table-unknown",
                hint=f"there were {', '.join(sorted(listed)[:40])}",
            )
        _check_node(node, known, sorted(listed))


def _nodes(found: Any) -> Iterator[dict[str, Any]]:
    waiting = [found]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _introduced(node: dict[str, Any]) -> Iterator[str]:
    """Names that a node gives to what follows it: common table expressions."""
    names = node.get("cte_map")
    if isinstance(names, dict):
        for entry in names.get("map") or ():
            yield str(entry.get("key", ""))
    if node.get("cte_name"):
        yield str(node["cte_name"])


def _check_node(node: dict[str, Any], known: set[str], listed: list[str]) -> None:
    kind = node.get("type")
    if kind == "TABLE_FUNCTION":
        function = node.get("function") or {}
        name = str(function.get("function_name", "")).casefold()
        if name not in TABLE_FUNCTIONS:
            raise refused(f"{name or 'that table function'} is not for queries")
    elif kind == "BASE_TABLE":
        _check_table(node, known, listed)
    elif kind == "SHOW_REF" and str(node.get("table_name", "")) not in ("", '"tables"'):
        raise refused("of the engine only SHOW TABLES, DESCRIBE and SUMMARIZE are answered")
    if node.get("class") in ("FUNCTION", "WINDOW"):
        name = str(node.get("function_name", "")).casefold()
        if name in REFUSED_FUNCTIONS:
            raise refused(f"{name} is not for queries")


def _check_table(node: dict[str, Any], known: set[str], listed: list[str]) -> None:
    catalog = str(node.get("catalog_name", "")).casefold()
    schema = str(node.get("schema_name", "")).casefold()
    name = str(node.get("table_name", ""))
    if not catalog and schema == "information_schema" and name.casefold() in INFORMATION:
        return
    if catalog not in ("", "memory") or schema not in ("", "main") or name.casefold() not in known:
        raise Invalid(
            f"cannot run the query: there is no table {name[:80]!r}",
            code="query-table-unknown",
            hint=f"there are {', '.join(listed[:40])}",
        )


# --- what is misspelled -------------------------------------------------------------------------

_NO_COLUMN = re.compile(
    r'(?:Referenced column|does not have a column named|Column) "([^"]{1,200})"'
)
_TEXT_SUMMED = re.compile(r"No (?:function matches|operator).*\bVARCHAR\b", re.S)
_BARE = re.compile(r"^(?:dim_|attr_)|__(?:double|unit|multiplier)$")
SPELLED = (
    "a dimension is dim_NAME, an attribute attr_NAME, a measure NAME (its exact decimal, as text) "
    "and NAME__double (a number, to compute with)"
)
COLUMNS_PAGE = "docs/guides/using-the-data.md"
NEAR_MAX = 5


def misspelled(message: str, columns: Mapping[str, Sequence[str]], read: Iterable[str]) -> str:
    """What to try where the engine found no column of a name, or met text in place of a number.

    ``columns`` has what each table is made of, ``read`` those that the SQL reads. Nothing, where
    ``message`` is about something else.
    """
    told = {name.casefold() for name in read}
    of_all = "records" in told
    made = {
        name: found
        for name, found in columns.items()
        if name.casefold() in told or (of_all and "record_id" in found)
    }
    own = any("record_id" in found for found in made.values())
    if own and _TEXT_SUMMED.search(message):
        return "measures are text, so that they stay exact: compute with NAME__double, or CAST it"
    wrong = _NO_COLUMN.search(message)
    if wrong is None or not made:
        return ""
    near = _near(wrong[1].casefold(), made)
    said = [f"near it: {', '.join(near)}"] if near else []
    if of_all:
        whose = [name for name, found in made.items() if near and near[0] in found]
        there = f" ({near[0]} is one of {whose[0]}'s)" if whose and near[0] not in SHARED else ""
        said.append(
            "records has the columns that all profiles have, and all of them in content: "
            f"content->>'NAME'; or read the table of a profile{there}"
        )
    said += [SPELLED] if own else []
    one = next(iter(made)) if len(made) == 1 else ""
    quotes = '"' if one and not one.isidentifier() else ""
    page = f", {COLUMNS_PAGE} says what each is" if own else ""
    said.append(f"DESCRIBE {quotes}{one or 'TABLE'}{quotes} lists a table's columns{page}")
    return "; ".join(said)


def _near(wrong: str, columns: Mapping[str, Sequence[str]]) -> list[str]:
    """The columns that may be meant, the likeliest first: of that name but for what stands before
    or behind it, then those that are written almost so."""
    bare = _BARE.sub("", wrong)
    every = list(dict.fromkeys(name for names in columns.values() for name in names))
    same = [name for name in every if _BARE.sub("", name.casefold()) == bare]
    folded = {name.casefold(): name for name in reversed(every)}
    alike = [folded[name] for name in get_close_matches(wrong, folded, n=NEAR_MAX)]
    stems = {_BARE.sub("", name): shown for name, shown in folded.items()}
    alike += [stems[name] for name in get_close_matches(bare, stems, n=NEAR_MAX)]
    return list(dict.fromkeys([*same, *alike]))[:NEAR_MAX]


# --- what is personal ---------------------------------------------------------------------------


def check_sealed(tree: dict[str, Any], sealed: Mapping[str, Mapping[str, str]]) -> None:
    """``Invalid`` if the SQL names a personal field of a table it reads.

    ``sealed`` has, for each table's name, the columns that it lacks and whose they are. The engine
    would say that there is no such column, or, worse, find another one: that of an outer query, or
    nothing at a path of a JSON value. Neither is an answer about the field.

    This is a courtesy and keeps no secret: what is personal is in none of the tables. A path that
    is computed (``'dim_' || 'who'``) names nothing here, and finds nothing there.
    """
    nodes = list(_nodes(tree.get("statements")))
    lacking: dict[str, dict[str, str]] = {}
    for node in nodes:
        if node.get("type") == "BASE_TABLE":
            name = str(node.get("table_name", "")).casefold()
            for called in (name, str(node.get("alias", "")).casefold()):
                if name in sealed:  # else the query's own, which may have anything of the others
                    lacking.setdefault(called, {}).update(sealed[name])
    every = {column: whose for columns in lacking.values() for column, whose in columns.items()}
    if not every:
        return
    own = _own_columns(nodes, sealed)
    for node in nodes:
        for column, whose in _spoken_of(node, lacking, every, own):
            raise _is_sealed(column, whose)
        by_name = node.get("ref_type") == "NATURAL" or node.get("setop_type") == "UNION_BY_NAME"
        if by_name:
            raise Invalid(
                "cannot run the query: it goes by the columns that tables have, and "
                f"{', '.join(sorted(every))} cannot be one of them: personal, and sealed",
                code="field-sealed",
                hint="name the columns: USING (…) for a join, a list in each SELECT for a union",
            )


def _own_columns(nodes: list[dict[str, Any]], tables: Iterable[str]) -> dict[str, set[str]]:
    """The query's own tables, and the columns that each is sure to have, whichever is meant."""
    found: dict[str, set[str]] = {}

    def add(name: Any, columns: set[str]) -> None:
        name = str(name).casefold()
        found[name] = found.get(name, columns) & columns

    for node in nodes:
        for entry in (node.get("cte_map") or {}).get("map") or ():
            made = entry.get("value") or {}
            add(entry.get("key", ""), _made(made.get("query_node"), made.get("aliases")))
        if node.get("type") == "SUBQUERY" and node.get("alias"):
            query = (node.get("subquery") or {}).get("node")
            add(node["alias"], _made(query, node.get("column_name_alias")))
    tables_of_its_own = {name: found[name] for name in found.keys() - {*tables}}
    for node in nodes:
        if node.get("type") == "BASE_TABLE" and node.get("alias"):
            columns = tables_of_its_own.get(str(node.get("table_name", "")).casefold(), set())
            add(node["alias"], set() if node.get("column_name_alias") else columns)
    return found


def _made(query: Any, names: Any) -> set[str]:
    """The columns that a subquery makes under a name that stands in it."""
    if names:
        return {str(name).casefold() for name in names}
    if not isinstance(query, dict) or query.get("type") != "SELECT_NODE":
        return set()
    given = (each.get("alias") or "" for each in query.get("select_list") or ())
    return {str(name).casefold() for name in given if name}


def _spoken_of(
    node: dict[str, Any],
    lacking: Mapping[str, Mapping[str, str]],
    every: Mapping[str, str],
    own: Mapping[str, set[str]],
) -> Iterator[tuple[str, str]]:
    """Personal columns that a node names: as a column, in ``USING``, or at a path of a value."""
    names = [str(name).casefold() for name in node.get("column_names") or ()]
    if names:
        table = names[-2] if len(names) > 1 else ""
        known = lacking.get(table, every)
        its_own = table not in lacking and names[-1] in own.get(table, ())
        if names[-1] in known and not its_own:
            yield names[-1], known[names[-1]]
    for name in node.get("using_columns") or ():
        if str(name).casefold() in every:
            yield str(name), every[str(name).casefold()]
    function = str(node.get("function_name", "")).casefold()
    # An arrow before a name is read as a function of one parameter until its type is known.
    if node.get("type") in ("ARRAY_EXTRACT", "LAMBDA") or function.startswith(PATH_FUNCTIONS):
        for inner in _nodes([node.get(part) for part in ("arguments", "children", "expr")]):
            literal = inner.get("literal") or inner.get("value") or {}
            text = _PATH.sub("", str(literal.get("text", ""))).casefold()
            if text in every:
                yield text, every[text]


def _is_sealed(column: str, whose: str) -> Invalid:
    return Invalid(
        f"cannot run the query: {column} of {whose} is personal, and sealed: no query has it",
        code="field-sealed",
        hint=f"`holdfast record list --profile {whose}` shows it to whoever may see it; `subject` "
        "tells whose a record is without naming anybody, `personal` what became of the field",
    )


def refused(why: str) -> Invalid:
    """The refusal of SQL that is not for queries."""
    return Invalid(f"cannot run the query: {why}", code="query-refused")


class ChildTable(Struct, frozen=True, kw_only=True):
    """A table for the child: a projection's file, or rows behind a descriptor.

    One with neither has no rows, and may be listed only: the SQL does not speak of it.
    """

    names: list[str]
    profile: str = ""
    path: str = ""
    digest: str = ""
    descriptor: int = -1

    @property
    def loaded(self) -> bool:
        """Whether its rows come along."""
        return bool(self.path) or self.descriptor >= 0


class QueryJob(Struct, frozen=True, kw_only=True):
    """What the child is given. ``withheld`` are tables that exist but not for this caller, and why,
    ``later`` those of which nothing was there yet."""

    sql: str
    format: QueryFormat
    exact: bool
    tables: list[ChildTable]
    withheld: dict[str, str]
    later: list[str] = []
    rows_max: int
    answer_bytes_max: int
    memory_mb: int


class ChildAnswer(Struct, frozen=True, kw_only=True):
    """What the child answers; ``body`` is the rows, as JSON or as CSV."""

    columns: list[QueryColumn]
    row_count: int
    body: str
    rows: dict[str, int]
    sealed: dict[str, list[str]] = {}
    """Of each profile, the columns that were left out because their fields are personal."""


def job_of(payload: Any) -> QueryJob:
    """The job in a child's payload."""
    return msgspec.convert(payload, QueryJob)
