// What node-postgres does at a database: prints the same whichever way it came there. Connects by libpq's environment.
const fs = require('fs');
const { Client, Pool } = require('pg');

const ca = process.env.PGSSLROOTCERT;
const config = { ssl: ca ? { ca: fs.readFileSync(ca), servername: 'localhost' } : false, enableChannelBinding: Boolean(ca) };
// The environment's mode would be read over `ssl`.
delete process.env.PGSSLMODE;

async function main() {
  const client = new Client(config);
  client.on('notice', (notice) => console.log('notice', notice.severity, notice.message));
  await client.connect();

  const values = [true, 7, '9223372036854775807', 1.5, "ünïcödé ☃ '\\\n", Buffer.from([0, 255, 92, 39]), null, ['a', null, '"'], { a: [1, null] }, new Date(0)];
  const kinds = ['boolean', 'int', 'bigint', 'float8', 'text', 'bytea', 'text', 'text[]', 'jsonb', 'timestamptz'];
  const one = await client.query('select ' + kinds.map((kind, at) => `$${at + 1}::${kind} as v${at}`).join(), values);
  console.log('values', JSON.stringify(one.rows[0]), one.fields.map((field) => field.dataTypeID).join());

  await client.query('create table things (id serial primary key, name text unique)');
  for (let n = 0; n < 50; n++) {
    await client.query({ name: 'put', text: 'insert into things (name) values ($1) returning id', values: [`n${n}`] });
  }
  const several = await client.query("select 1 as a; select 2 as b, 'x' as c; update things set name = name where id < 4");
  console.log('several', several.map((result) => [result.command, result.rowCount, JSON.stringify(result.rows)].join(' ')).join(' | '));
  console.log('array', JSON.stringify((await client.query({ text: 'select 1, 2 union all select 3, 4', rowMode: 'array' })).rows));

  for (const [text, list] of [['select 1/0', []], ['selec 1', []], ['select $1::int', ['a']], ["insert into things (name) values ($1)", ['n1']]]) {
    try {
      await client.query(text, list);
    } catch (error) {
      console.log('error', error.code, error.message, error.position, error.constraint, error.routine);
    }
  }
  await client.query('begin');
  await client.query('insert into things (name) values ($1)', ['lost']);
  await client.query('selec').catch((error) => console.log('in a transaction', error.code));
  await client.query('select 1').catch((error) => console.log('and on', error.code));
  await client.query('rollback');

  const mine = (await client.query('select pg_backend_pid() as pid')).rows[0].pid;
  const heard = new Promise((resolve) => client.once('notification', resolve));
  await client.query('listen news');
  await client.query("select pg_notify('news', 'hello')");
  const { channel, payload, processId } = await heard;
  console.log('notified', channel, payload, processId === mine);
  await client.query("do $$ begin raise notice 'take note'; end $$");

  const large = 'x'.repeat(3 * 1024 * 1024);
  console.log('large', (await client.query('select length($1::text) as sent, repeat($2, 2000000) as back', [large, 'ab'])).rows[0].back.length);
  console.log('things', (await client.query('select count(*)::int as n from things')).rows[0].n);
  await client.end();

  const pool = new Pool({ ...config, max: 4 });
  const sums = await Promise.all(Array.from({ length: 30 }, (_, n) => pool.query('select $1::int as n', [n])));
  console.log('pool', sums.reduce((sum, result) => sum + result.rows[0].n, 0));
  await pool.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
