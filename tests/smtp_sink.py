"""A mail server whose answers a test writes: smtp_sink.py PORT DIRECTORY [auth]

What it takes lies in DIRECTORY/box, one file a message, with the recipients in its first line. While DIRECTORY has a
file `say`, a message is not taken and answered with what that says; while it has `hold`, one that was taken is not
answered. Nobody is called no-…, and later-… takes nothing while there is a file `later`. With `auth` it offers AUTH
without TLS.
"""

import asyncio
import os
import sys

from aiosmtpd.smtp import SMTP, AuthResult

port, directory = int(sys.argv[1]), sys.argv[2]
in_clear = sys.argv[3:] == ["auth"]


def there(name):
    return os.path.exists(os.path.join(directory, name))


class Handler:
    taken = 0

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("no-"):
            return "550 5.1.1 nobody is called that"
        if address.startswith("later-") and there("later"):
            return "450 4.2.1 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        if there("say"):
            return open(os.path.join(directory, "say")).read().strip()
        Handler.taken += 1
        new = os.path.join(directory, f"new-{Handler.taken}")
        with open(new, "wb") as file:
            file.write(("Envelope-to: " + ", ".join(envelope.rcpt_tos) + "\r\n").encode())
            file.write(envelope.content)
        os.rename(new, os.path.join(directory, "box", f"{Handler.taken:06}"))
        while there("hold"):
            await asyncio.sleep(0.02)
        return "250 OK taken"


def protocol():
    if in_clear:
        taken = lambda *_: AuthResult(success=True)
        return SMTP(Handler(), authenticator=taken, auth_require_tls=False)
    return SMTP(Handler())


async def main():
    os.makedirs(os.path.join(directory, "box"), exist_ok=True)
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port)
    await server.serve_forever()


asyncio.run(main())
