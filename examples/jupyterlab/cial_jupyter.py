"""What connects JupyterLab with Cial: who visits, and whether a kernel works."""

import http.client
import json
import socket

from jupyter_server.auth import IdentityProvider, User
from tornado.ioloop import IOLoop, PeriodicCallback

BUSY_SOCKET = "/run/cial/agent/busy.sock"
CHECK_SECONDS = 5
TTL_SECONDS = 60


class Visitor(IdentityProvider):
    """The person whom the edge names. Nobody else can set these headers."""

    def get_user(self, handler):
        headers = handler.request.headers
        user, email = headers.get("X-Cial-User"), headers.get("X-Cial-Email")
        if not user:
            return None
        return User(username=user, name=headers.get("X-Cial-Name") or email, display_name=email)

    @property
    def login_available(self):
        return False


class BusyDeclaration:
    """Keeps the tenant awake while a kernel runs a cell."""

    def __init__(self, kernels):
        self.kernels = kernels
        self.id = None

    def check(self):
        working = any(
            getattr(self.kernels.get_kernel(kernel), "execution_state", None) == "busy"
            for kernel in self.kernels.list_kernel_ids()
        )
        if working:
            self.declare()
        elif self.id:
            request("DELETE", f"/busy/{self.id}")
            self.id = None

    def declare(self):
        if self.id and request("PUT", f"/busy/{self.id}", {"ttl_seconds": TTL_SECONDS})[0] < 400:
            return
        declaration = {"reason": "a notebook cell runs", "ttl_seconds": TTL_SECONDS}
        status, answer = request("POST", "/busy", declaration)
        self.id = answer["id"] if status == 201 else None


class BusyConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(BUSY_SOCKET)


def request(method, path, body=None):
    connection = BusyConnection("busy", timeout=2)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else {}
    finally:
        connection.close()


def _jupyter_server_extension_points():
    return [{"module": "cial_jupyter"}]


def _load_jupyter_server_extension(app):
    declaration = BusyDeclaration(app.kernel_manager)
    IOLoop.current().add_callback(PeriodicCallback(declaration.check, CHECK_SECONDS * 1000).start)
