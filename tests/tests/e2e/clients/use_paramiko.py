"""What the matrix asks of a library, with paramiko. Arguments: port, login, private key, host key, directory."""

import base64
import hashlib
import sys

import paramiko

port, login, identity, host_key, there = sys.argv[1:]
client = paramiko.SSHClient()
name = "[127.0.0.1]:%s" % port
kind, blob = host_key.split()
client.get_host_keys().add(name, kind, paramiko.Ed25519Key(data=base64.b64decode(blob)))
client.connect("127.0.0.1", int(port), login, key_filename=identity, allow_agent=False, look_for_keys=False)
data = open("data", "rb").read()

to, out, err = client.exec_command("cat; echo told >&2; exit 7")
to.write(data)
to.channel.shutdown_write()
digest = hashlib.sha256(out.read()).hexdigest()
print("cat:", digest, err.read().decode().strip(), out.channel.recv_exit_status())

channels = [client.exec_command("wc -c; exit %d" % (10 + number)) for number in range(4)]
for number, (to, out, err) in enumerate(channels):
    to.write(b"x" * (100000 + number))
    to.channel.shutdown_write()
for number, (to, out, err) in enumerate(channels):
    print("channel %d:" % number, out.read().decode().strip(), out.channel.recv_exit_status())

to, out, err = client.exec_command("kill -TERM $$")
print("signal:", out.channel.recv_exit_status())

sftp = client.open_sftp()
sftp.chdir(there)
sftp.put("data", "up")
sftp.get("up", "down")
print("listing:", *sftp.listdir())
try:
    sftp.stat("nothing")
except FileNotFoundError:
    print("nothing: not there")
client.close()
