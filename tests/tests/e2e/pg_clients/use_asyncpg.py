"""What asyncpg does at a database: prints the same whichever way it came there. Connects by libpq's environment."""
import asyncio
import decimal
import io
import ipaddress
import uuid
from datetime import date, datetime, time, timedelta, timezone

import asyncpg

TYPES = [
    ("boolean", True), ("smallint", -32768), ("integer", 2**31 - 1), ("bigint", -(2**63)), ("float8", 1.5e-300),
    ("numeric", decimal.Decimal("12345678901234567890.123456789")), ("text", "ünïcödé ☃ 'quoted' \\ \n"), ("bytea", bytes(range(256))),
    ("uuid", uuid.UUID(int=7)), ("date", date(2024, 2, 29)), ("time", time(1, 2, 3, 4)), ("inet", ipaddress.ip_interface("10.0.0.1/8")),
    ("timestamptz", datetime(2024, 2, 29, 23, 59, 59, 123456, timezone.utc)), ("interval", timedelta(days=-3, microseconds=5)),
    ("integer[]", [[1, None], [3, 4]]), ("text[]", ["a,b", '"', "{}", "\\"]), ("jsonb", '{"a": [1, null, "☃"]}'), ("integer", None),
    ("int4range", asyncpg.Range(1, 9)), ("point", asyncpg.Point(1.5, -2)), ("bit varying", asyncpg.BitString("10110")),
]


async def main():
    conn = await asyncpg.connect()
    print("connected", conn.get_server_version().major > 14, conn.get_settings().client_encoding)
    for kind, value in TYPES:
        back = await conn.fetchval(f"select $1::{kind}", value)
        print(kind, back == value, type(back).__name__)
    await conn.execute("create type pair as (a int, b text); create table things (id serial primary key, name text unique, pair pair)")
    print("composite", await conn.fetchval("insert into things (name, pair) values ('one', $1) returning pair", (1, "x")))
    await transactions(conn)
    await many(conn)
    await copies(conn)
    await notifications(conn)
    await errors(conn)
    await timeouts(conn)
    await conn.close()
    await pool()


async def transactions(conn):
    async with conn.transaction(isolation="serializable"):
        await conn.execute("insert into things (name) values ($1)", "two")
        try:
            async with conn.transaction():
                await conn.execute("insert into things (name) values ($1)", "two")
        except asyncpg.UniqueViolationError as error:
            print("savepoint", error.sqlstate, error.constraint_name)
        statement = await conn.prepare("select n, repeat('x', n) from generate_series(1, $1) n")
        print("attributes", [attribute.name for attribute in statement.get_attributes()])
        total = 0
        async for row in statement.cursor(1000, prefetch=37):
            total += len(row[1])
        print("cursor", total)
        cursor = await statement.cursor(10)
        await cursor.forward(4)
        print("forward", await cursor.fetchrow(), len(await cursor.fetch(100)))


async def many(conn):
    await conn.executemany("insert into things (name, pair) values ($1, ($2, $1))", [(f"m{n}", n) for n in range(500)])
    try:
        await conn.executemany("insert into things (name) values ($1)", [("new",), ("m7",), ("newer",)])
    except asyncpg.UniqueViolationError as error:
        print("many refused", error.detail)
    print("many", await conn.fetchval("select count(*) from things"), await conn.execute("update things set name = name"))
    rows = await asyncio.gather(*[one(n) for n in range(5)])
    print("side by side", rows)


async def one(number):
    conn = await asyncpg.connect()
    try:
        return await conn.fetchval("select $1::int * 2 from pg_sleep(0.05)", number)
    finally:
        await conn.close()


async def copies(conn):
    rows = [(f"c{n}\t\\", (n, None)) for n in range(2000)]
    print(await conn.copy_records_to_table("things", records=rows, columns=["name", "pair"]))
    out = io.BytesIO()
    print(await conn.copy_from_query("select name, pair from things where name like $1 order by id", "c%", output=out, format="csv"), len(out.getvalue()))
    try:
        await conn.copy_to_table("things", source=io.BytesIO(b"only one column\n"), columns=["name", "pair"])
    except asyncpg.PostgresError as error:
        print("copy refused", error.sqlstate, error.context)


async def notifications(conn):
    heard = asyncio.get_running_loop().create_future()
    await conn.add_listener("news", lambda connection, pid, channel, payload: heard.set_result((pid == conn.get_server_pid(), channel, payload)))
    other = await asyncpg.connect()
    await other.execute("select pg_notify('news', $1)", "x" * 7000)
    await other.close()
    mine, channel, payload = await asyncio.wait_for(heard, 20)
    print("notified", mine, channel, len(payload))
    conn.add_log_listener(lambda connection, message: print("notice", message.severity, message.message))
    await conn.execute("do $$ begin raise notice 'take note'; end $$")
    await conn.reset()


async def errors(conn):
    for statement, values in (("select 1/$1::int", [0]), ("selec 1", []), ("select * from missing", []), ("select $1::int", ["a"])):
        try:
            await conn.fetch(statement, *values)
        except asyncpg.PostgresError as error:
            print("error", error.sqlstate, error.message, error.position)
        except asyncpg.DataError as error:
            print("client error", type(error).__name__)


async def timeouts(conn):
    try:
        await conn.fetch("select pg_sleep(60)", timeout=0.3)
    except asyncio.TimeoutError:
        print("timed out")
    print("alive", await conn.fetchval("select 1"))


async def pool():
    async with asyncpg.create_pool(min_size=2, max_size=4) as pool:
        print("pool", sum(await asyncio.gather(*[pool.fetchval("select $1::int", n) for n in range(40)])))


asyncio.run(main())
