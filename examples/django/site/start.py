"""Brings the database to this release's schema, then serves: a failed migration ends the start."""

import os
import subprocess
import sys

subprocess.run([sys.executable, "manage.py", "migrate", "--no-input"], check=True)
gunicorn = [sys.executable, "-m", "gunicorn", "--workers", "1", "--threads", "4"]
address = ["--bind", f"127.0.0.1:{os.environ['PORT']}", "--worker-tmp-dir", "/tmp"]
os.execv(sys.executable, [*gunicorn, *address, "config.wsgi"])
