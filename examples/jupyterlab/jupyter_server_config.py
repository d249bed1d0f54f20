"""JupyterLab behind Cial: the edge authenticates, and the files volume holds the notebooks."""

import os

c = get_config()  # noqa: F821

c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port = int(os.environ["PORT"])
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.root_dir = "/home/agent/files"
# The edge connects from 127.0.0.1 and has checked the host already.
c.ServerApp.allow_remote_access = True
c.ServerApp.identity_provider_class = "cial_jupyter.Visitor"
c.ServerApp.jpserver_extensions = {"cial_jupyter": True, "jupyterlab": True}
c.ServerApp.max_body_size = 64 * 1024 * 1024
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
