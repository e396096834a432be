"""So many statements by psycopg 3: simple and extended protocol, text and binary, pipelines. Its first one names the driver."""
import sys
from decimal import Decimal

import psycopg

count = int(sys.argv[1])
with psycopg.connect(autocommit=True, options="-c timezone=UTC") as conn:
    conn.execute("select 'driver psycopg'")
    conn.execute("create temp table t (id int primary key, a text, b bytea, c float8, d numeric, e int[])")
    for n in range(count):
        match n % 5:
            case 0:
                conn.execute(
                    "insert into t values (%s, %s, %b, %b, %s, %t)",
                    [n, f"it's \\ ünïcödé {n}", bytes([n % 256, 39, 255]), n / 8, Decimal(n) / 100, [n, None, -1]],
                )
            case 1:
                conn.execute(f"select 'simple {n}', $$it's dollars$$ -- and a comment\n")
            case 2:
                try:
                    conn.execute("insert into t (id, a) values (%s, %s)", [n - 2, None])
                except psycopg.errors.UniqueViolation:
                    pass
            case 3:
                conn.execute("select %s::text || a from t where id = %s", ["x" * (n % 300), n - 3], prepare=True)
            case 4:
                with conn.pipeline():
                    for step in range(3):
                        conn.execute("update t set c = %s where id = %s", [step, n - 4])
    with conn.cursor().copy("copy t (id) from stdin") as copy:
        copy.write_row((-1,))
