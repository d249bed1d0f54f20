"""A mail server for tests: aiosmtpd, on a free port of loopback.

Prints its port, then one line of JSON for each mail that it took. Arguments: the encryption (`tls`, `starttls` or
`plain`), a folder with `cert.pem` and `key.pem`, and, where a sign-in is required, user and password. While the folder
holds a file `response`, the server responds to every recipient with its text.
"""

import asyncio
import email
import email.policy
import json
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

encryption, folder = sys.argv[1], pathlib.Path(sys.argv[2])
login = [part.encode() for part in sys.argv[3:5]]


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        response = folder / "response"
        if response.exists():
            print(json.dumps({"refused": address}), flush=True)
            return response.read_text().strip()
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "headers": {name.lower(): value for name, value in message.items()},
            "text": message.get_body(("plain",)).get_content(),
            "html": message.get_body(("html",)).get_content(),
            "host": session.host_name,
            "tls": encryption == "tls" or session.ssl is not None,
            "user": session.auth_data.login.decode() if session.authenticated else None,
        }
        print(json.dumps(mail), flush=True)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=[data.login, data.password] == login, auth_data=data)


async def main():
    options = {"enable_SMTPUTF8": True}
    if login:
        options |= {"authenticator": authenticate, "auth_required": True, "auth_require_tls": encryption == "starttls"}
    context = None
    if encryption != "plain":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    if encryption == "starttls":
        options |= {"tls_context": context, "require_starttls": True}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(Handler(), **options), "127.0.0.1", 0, ssl=context if encryption == "tls" else None
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    # Ends with the test, which holds the other end.
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
