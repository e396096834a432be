"""What the matrix asks of a library, with asyncssh. Arguments: port, login, private key, host key, directory."""

import asyncio
import hashlib
import sys

import asyncssh

port, login, identity, host_key, there = sys.argv[1:]


async def main():
    known = asyncssh.import_known_hosts("[127.0.0.1]:%s %s\n" % (port, host_key))
    async with asyncssh.connect(
        "127.0.0.1", int(port), username=login, client_keys=[identity], known_hosts=known, agent_path=None, config=None
    ) as client:
        data = open("data", "rb").read()
        done = await client.run("cat; echo told >&2; exit 7", input=data, encoding=None)
        print("cat:", hashlib.sha256(done.stdout).hexdigest(), done.stderr.decode().strip(), done.exit_status)

        runs = [
            client.run("wc -c; exit %d" % (10 + number), input="x" * (100000 + number)) for number in range(4)
        ]
        for number, done in enumerate(await asyncio.gather(*runs)):
            print("channel %d:" % number, done.stdout.strip(), done.exit_status)

        done = await client.run("kill -TERM $$")
        print("signal:", done.exit_status, done.exit_signal)

        async with client.start_sftp_client() as sftp:
            await sftp.chdir(there)
            await sftp.put("data", "up")
            await sftp.get("up", "down")
            print("listing:", *[name for name in await sftp.listdir() if name not in (".", "..")])
            try:
                await sftp.stat("nothing")
            except asyncssh.SFTPNoSuchFile:
                print("nothing: not there")


asyncio.run(main())
