"""So many statements by asyncpg: extended protocol, binary values, cursors, batches. Its first one names the driver."""
import asyncio
import sys
import uuid
from datetime import datetime, timezone
from decimal import Decimal

import asyncpg


async def main(count):
    conn = await asyncpg.connect(server_settings={"timezone": "UTC"}, statement_cache_size=50)
    await conn.fetch("select 'driver asyncpg'")
    await conn.execute("create temp table t (id int primary key, a text, b bytea, c float8, d numeric, e timestamptz, f uuid, g bool, h bigint)")
    for n in range(count):
        match n % 5:
            case 0:
                at = datetime(2024, 1, 1 + n % 28, 12, 0, n % 60, 123000, timezone.utc)
                await conn.execute(
                    "insert into t values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                    n, f"it's \\ ünïcödé {n}\n", bytes([n % 256, 0, 255]), n / 8, Decimal(n) / 100, at, uuid.UUID(int=n), n % 2 == 0, -(2**40) * n,
                )
            case 1:
                await conn.fetch("select a from t where id = $1 or $2::text is null", n - 1, None if n % 2 else "x")
            case 2:
                try:
                    await conn.execute("insert into t (id, a) values ($1, $2)", n - 2, "there already")
                except asyncpg.UniqueViolationError:
                    pass
            case 3:
                await conn.fetch(f"select {n} + $1::int /* a text of its own each time */", n)
            case 4:
                await conn.executemany("update t set h = $2 where id = $1", [(n, 1), (n - 4, 2), (0, None)])
    async with conn.transaction():
        async for _ in conn.cursor("select n from generate_series(1, $1::int) n", 100, prefetch=30):
            pass
    await conn.close()


asyncio.run(main(int(sys.argv[1])))
