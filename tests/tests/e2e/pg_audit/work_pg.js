// So many statements by node-postgres: simple and extended protocol, named statements. Its first one names the driver.
const fs = require('fs');
const { Client } = require('pg');

async function main(count) {
  delete process.env.PGSSLMODE;
  const client = new Client({ ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT), servername: 'localhost' }, options: '-c timezone=UTC' });
  await client.connect();
  await client.query("select 'driver node-postgres'");
  await client.query('create temp table t (id int primary key, a text, b bytea, c json)');
  for (let n = 0; n < count; n++) {
    if (n % 4 === 0) {
      await client.query({ name: 'put', text: 'insert into t values ($1, $2, $3, $4)', values: [n, `it's \\ ünïcödé ${n}\t`, Buffer.from([n % 256, 0, 92]), { n, quote: "'" }] });
    } else if (n % 4 === 1) {
      await client.query(`select ${n} as "simple", E'a\\'b'`);
    } else if (n % 4 === 2) {
      await client.query('insert into t (id, a) values ($1, $2)', [n - 2, null]).catch(() => {});
    } else {
      await client.query('select a from t where id = $1::int or $2', [n - 3, n % 8 === 3]);
    }
  }
  await client.end();
}

main(Number(process.argv[2])).catch((error) => {
  console.error(error);
  process.exit(1);
});
