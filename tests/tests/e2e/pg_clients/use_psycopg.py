"""What psycopg 3 does at a database: prints the same whichever way it came there. Connects by libpq's environment."""
import logging
import sys
import threading
import time
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

# Whether it warns of an aborted pipeline depends on what came first.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)

TYPES = [
    ("boolean", True), ("smallint", -32768), ("integer", 2**31 - 1), ("bigint", -(2**63)), ("float8", 1.5e-300),
    ("numeric", Decimal("12345678901234567890.123456789")), ("text", "ünïcödé ☃ 'quoted' \\ \n"), ("bytea", bytes(range(256))),
    ("uuid", UUID(int=7)), ("date", date(2024, 2, 29)), ("timestamptz", datetime(2024, 2, 29, 23, 59, 59, 123456, timezone.utc)),
    ("interval", timedelta(days=-3, microseconds=5)), ("integer[]", [1, None, 3]), ("text[]", ['a,b', '"', "{}", "\\"]),
    ("jsonb", Jsonb({"a": [1, None, "☃"]})), ("integer", None),
]


def main():
    with psycopg.connect(autocommit=True) as conn:
        print("status", conn.info.status.name, conn.info.encoding, conn.info.server_version // 10000 > 14)
        with_types(conn)
        transactions(conn)
        pipelines(conn)
        copies(conn)
        cursors(conn)
        notifications(conn)
        errors(conn)
        cancel(conn)
    two_phases()


def with_types(conn):
    for binary in (False, True):
        for kind, value in TYPES:
            cast = sql.SQL("select %{}::" + kind).format(sql.SQL("b" if binary else "s"))
            back = conn.execute(cast, [value], binary=binary).fetchone()[0]
            wanted = value.obj if isinstance(value, Jsonb) else value
            print(kind, binary, back == wanted, type(back).__name__)
    for round in range(8):
        conn.execute("select %s::int + 1", [round], prepare=True)
    print("prepared", conn.execute("select count(*) > 0 from pg_prepared_statements").fetchone())


def transactions(conn):
    conn.execute("create table things (id serial primary key, name text unique)")
    try:
        with conn.transaction():
            conn.execute("insert into things (name) values ('outer')")
            try:
                with conn.transaction():
                    conn.execute("insert into things (name) values ('outer')")
            except psycopg.errors.UniqueViolation as error:
                print("savepoint", error.sqlstate, error.diag.constraint_name, error.diag.table_name)
            conn.execute("insert into things (name) values ('kept')")
            raise psycopg.Rollback()
    finally:
        print("rolled back", conn.execute("select count(*) from things").fetchone(), conn.info.transaction_status.name)


def pipelines(conn):
    with conn.pipeline() as pipeline:
        cursors = [conn.execute("insert into things (name) values (%s) returning name", [f"p{n}"]) for n in range(200)]
        pipeline.sync()
        print("pipeline", cursors[0].fetchone(), cursors[199].fetchone())
    try:
        with conn.pipeline():
            conn.execute("insert into things (name) values ('before')")
            conn.execute("insert into things (name) values ('p7')")
            conn.execute("insert into things (name) values ('after')")
    except psycopg.Error as error:
        print("pipeline error", type(error).__name__)
    print("after the pipeline", conn.execute("select count(*), bool_or(name = 'after') from things").fetchone())
    with conn.cursor() as cursor:
        cursor.executemany("insert into things (name) values (%s) returning id > 0", [(f"m{n}",) for n in range(100)], returning=True)
        print("executemany", cursor.rowcount)


def copies(conn):
    with conn.cursor() as cursor:
        with cursor.copy("copy things (name) from stdin") as copy:
            for n in range(3000):
                copy.write_row((f"copied \t\\ {n}",))
        print("copied in", cursor.rowcount)
        with cursor.copy("copy (select name from things where name like 'copied%' order by id) to stdout (format binary)") as copy:
            print("copied out", sum(len(block) for block in copy))
        try:
            with cursor.copy("copy things (name) from stdin") as copy:
                copy.write("p7\n" * 100)
        except psycopg.errors.UniqueViolation as error:
            print("copy refused", error.diag.context)
        try:
            with cursor.copy("copy things (name) from stdin") as copy:
                copy.write("never\n")
                raise ValueError("changed my mind")
        except (ValueError, psycopg.errors.QueryCanceled) as error:
            print("copy given up", str(error).splitlines()[0])
    print("after copies", conn.execute("select count(*) from things").fetchone())


def cursors(conn):
    with conn.transaction(), conn.cursor(name="walk") as cursor:
        cursor.itersize = 100
        cursor.execute("select id, repeat('x', id::int % 50) from things order by id")
        print("server cursor", sum(len(row[1]) for row in cursor))
        cursor.scroll(0, "absolute")
        print("scrolled", cursor.fetchmany(2)[0][1])
    rows = conn.cursor().stream("select generate_series(1, 2000)")
    print("streamed", sum(row[0] for row in rows))


def notifications(conn):
    conn.add_notice_handler(lambda diag: print("notice", diag.severity, diag.message_primary))
    conn.execute("do $$ begin raise notice 'take %', 'note'; raise warning 'or else'; end $$")
    mine = conn.execute("select pg_backend_pid()").fetchone()[0]
    conn.add_notify_handler(lambda notify: print("notified", notify.payload, notify.pid == mine == conn.info.backend_pid))
    conn.execute("listen news")
    conn.execute("select pg_notify('news', 'to myself')")


def errors(conn):
    for statement in ("select 1/0", "selec 1", "select * from missing", "select 'a'::int", "\xffnot ascii"):
        try:
            conn.execute(statement)
        except psycopg.Error as error:
            diag = error.diag
            print("error", error.sqlstate, diag.message_primary, diag.statement_position, diag.source_function)


def cancel(conn):
    timer = threading.Timer(0.3, conn.cancel)
    start = time.monotonic()
    timer.start()
    try:
        conn.execute("select pg_sleep(60)")
    except psycopg.errors.QueryCanceled as error:
        print("cancelled", error.sqlstate, time.monotonic() - start < 30)
    timer.join()
    print("alive", conn.execute("select 1").fetchone())


def two_phases():
    with psycopg.connect() as conn:
        conn.tpc_begin(conn.xid(1, "gtrid", "bqual"))
        conn.execute("insert into things (name) values ('two phases')")
        conn.tpc_prepare()
        conn.tpc_rollback()
        print("two phases", len(conn.tpc_recover()))


main()
sys.stdout.flush()
