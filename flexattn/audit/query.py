"""Counts over a whole log, and the log as a Parquet file: DuckDB reads the JSON lines themselves.

Nothing is loaded into memory first and nothing is verified here: verify, then count. Needs the
extra `query`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexattn.audit.folder import RunFolder
from flexattn.audit.schema import GENERATION_FIELDS, MAX_LINE_BYTES, TRAIN_FIELDS
from flexattn.errors import AuditError, MissingExtraError

_SQL_TYPES = {
    "int": "BIGINT",
    "float": "DOUBLE",
    "str": "VARCHAR",
    "text": "VARCHAR",
    "short": "VARCHAR",
    "chars": "VARCHAR[]",
}
TOP = 20

# name of the table -> (what it shows, SQL)
TABLES: dict[str, tuple[str, str]] = {
    "catalogs": (
        "by catalog version",
        """SELECT cat AS catalog, count(*) AS steps, count(DISTINCT ep) AS episodes,
             avg((len > 0)::INT) AS hit_rate{reward} FROM steps GROUP BY cat ORDER BY min(ep)""",
    ),
    "windows": (
        "Lh and Lp where a term starts, and elsewhere",
        """SELECT CASE WHEN len > 0 THEN 'a term starts' ELSE 'elsewhere' END AS place,
             count(*) AS steps, avg(Lh) AS mean_Lh, avg(Lp) AS mean_Lp, avg(n_legal) AS mean_n_legal
             FROM steps GROUP BY 1 ORDER BY 1""",
    ),
    "caps": (
        "use of each Lp",
        """SELECT Lp, count(*) AS steps, count(*) / sum(count(*)) OVER () AS share,
             avg((len > 0)::INT) AS hit_rate FROM steps GROUP BY Lp ORDER BY Lp""",
    ),
    "histories": (
        "use of each Lh",
        """SELECT Lh, count(*) AS steps, count(*) / sum(count(*)) OVER () AS share
             FROM steps GROUP BY Lh ORDER BY Lh""",
    ),
    "terms": (
        f"the {TOP} terms that were hit most",
        f"""SELECT seg AS term, file, count(*) AS hits, avg(idf) AS idf{{gain}} FROM steps
             WHERE len > 0 GROUP BY ALL ORDER BY hits DESC, term LIMIT {TOP}""",
    ),
    "notes": (
        "notes",
        """SELECT coalesce(note, '-') AS note, count(*) AS steps, count(w) AS written_by_another
             FROM steps GROUP BY 1 ORDER BY steps DESC""",
    ),
}
_REWARD = """, sum(ler) AS ler, sum(len_cost) AS len_cost, sum(base) AS base,
             sum(reward) / count(DISTINCT ep) AS reward_per_episode"""
_GAIN = ", avg(sim) AS sim, sum(ler) AS ler"


def _connection(folder: RunFolder) -> Any:
    try:
        import duckdb
    except ImportError:
        raise MissingExtraError("--stats and --parquet", "query") from None
    fields = GENERATION_FIELDS if folder.kind == "generate" else TRAIN_FIELDS
    columns = ", ".join(f"'{f.name}': '{_SQL_TYPES[f.kind]}'" for f in fields)
    files = [str(file) for file in folder.step_files()]
    if not files:
        raise AuditError(f"{folder.path}: holds no step file, nothing to count")
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in files)
    connection.execute(
        f"""CREATE VIEW steps AS SELECT * FROM read_json([{names}], format = 'newline_delimited',
              columns = {{{columns}}}, maximum_object_size = {MAX_LINE_BYTES})
            WHERE step IS NOT NULL"""
    )
    return connection


def statistics(folder: RunFolder) -> dict[str, tuple[str, list[str], list[tuple[Any, ...]]]]:
    """Every table of `TABLES` over a run.

    Returns: name -> (what it shows, column names, rows).
    Raises: MissingExtraError without DuckDB, AuditError where the log can't be read as one.
    """
    connection = _connection(folder)
    trained = folder.kind != "generate"
    out = {}
    for name, (title, sql) in TABLES.items():
        query = sql.format(reward=_REWARD if trained else "", gain=_GAIN if trained else "")
        result = _run(connection, query, folder)
        out[name] = (title, [column[0] for column in result.description], result.fetchall())
    return out


def write_parquet(folder: RunFolder, out: Path) -> int:
    """Write all steps to a Parquet file; returns how many.

    Raises: MissingExtraError without DuckDB, AuditError where the log can't be read as one.
    """
    connection = _connection(folder)
    target = str(out).replace("'", "''")
    _run(connection, f"COPY steps TO '{target}' (FORMAT parquet, COMPRESSION zstd)", folder)
    return int(connection.execute(f"SELECT count(*) FROM '{target}'").fetchone()[0])


def _run(connection: Any, sql: str, folder: RunFolder) -> Any:
    import duckdb

    try:
        return connection.execute(sql)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0][:200]
        raise AuditError(f"{folder.path}: its log can't be counted: {reason}") from None
