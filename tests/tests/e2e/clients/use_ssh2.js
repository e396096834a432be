// What the matrix asks of a library, with ssh2. Arguments: port, login, private key, host key, directory.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const { promisify } = require('util');
const { Client } = require('ssh2');

const [port, username, identity, hostKey, there] = process.argv.slice(2);
const client = new Client();

// Runs a command to its end and gives what it wrote and how it ended.
const run = (command, input) => new Promise((resolve, reject) => {
  client.exec(command, (error, stream) => {
    if (error) return reject(error);
    const out = [];
    let err = '';
    stream.on('data', (chunk) => out.push(chunk));
    stream.stderr.on('data', (chunk) => { err += chunk; });
    stream.on('close', (code, signal) => resolve({ out: Buffer.concat(out), err: err.trim(), code, signal }));
    stream.end(input);
  });
});

const main = async () => {
  const data = fs.readFileSync('data');
  let done = await run('cat; echo told >&2; exit 7', data);
  console.log('cat:', crypto.createHash('sha256').update(done.out).digest('hex'), done.err, done.code);

  const numbers = [0, 1, 2, 3];
  const runs = numbers.map((number) => run(`wc -c; exit ${10 + number}`, 'x'.repeat(100000 + number)));
  (await Promise.all(runs)).forEach((end, number) => {
    console.log(`channel ${number}:`, end.out.toString().trim(), end.code);
  });

  done = await run('kill -TERM $$', '');
  console.log('signal:', done.code, done.signal);

  const sftp = await promisify(client.sftp.bind(client))();
  const ask = (name, ...args) => promisify(sftp[name].bind(sftp))(...args);
  await ask('fastPut', 'data', `${there}/up`);
  await ask('fastGet', `${there}/up`, 'down');
  console.log('listing:', ...(await ask('readdir', there)).map((entry) => entry.filename));
  const missing = await ask('stat', `${there}/nothing`).catch((error) => error);
  if (missing.code === 2) console.log('nothing: not there');
  client.end();
};

const fail = (error) => {
  console.error(error);
  process.exit(3);
};
client.on('error', fail);
client.on('ready', () => main().catch(fail));
client.connect({
  host: '127.0.0.1',
  port: Number(port),
  username,
  privateKey: fs.readFileSync(identity),
  hostVerifier: (key) => key.toString('base64') === hostKey.split(' ')[1],
});
