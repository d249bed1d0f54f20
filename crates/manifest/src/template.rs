//! The commented manifest that `cial init` writes.

/// Each key is a comment with its example, so the text as it stands changes nothing.
pub const TEMPLATE: &str = r#"# How the program of an image runs as a tenant. Every key is optional.
# `cial manifest check` names all faults of this file.

# Program and arguments, instead of the image's own. The program runs as user 1001, and the variable
# PORT holds the port on which it must listen.
# command = ["/usr/bin/notes", "--data", "/home/agent/files"]

# The port on which the program listens: 1024 or above, and not 8080. Without this key, the one port
# that the image exposes, otherwise 3000.
# port = 3000

# A path that answers with a status below 400 once the program is ready. Without this key, the
# program is ready as soon as it accepts connections.
# health = { path = "/healthz" }

# Paths that anonymous visitors reach where a tenant requires sign-in. With a slash at the end, whatever begins so.
# public_paths = ["/webhooks/", "/robots.txt"]

# Whether the program receives the variable DATABASE_URL, with which it reaches the tenant's own schema
# on Postgres.
# database = true

# The path to which messages of the chat are posted; or "model": the model that the operator of the installation has set
# replies. Without this key, the app takes none.
# chat = "/chat"

# Commands that run before the program, as its user: until one succeeded once in the tenant, and until the
# other succeeded once since the tenant moved to this release. Each has 60 seconds unless timeout says more.
# hooks = { before_first_start = ["/usr/bin/notes", "init"], migrate = ["/usr/bin/notes", "migrate"], timeout = 60 }

# Variables of the program. Never secrets: an inspection of the container shows them.
# env = { GREETING = "hello" }

# Names of variables that hold secrets. A tenant starts once each required one has a value: its own, which
# `cial tenants secrets set` sets, or that of the app, which `cial apps secrets set` sets.
# secrets = { required = ["SECRET_KEY"], optional = ["SMTP_PASSWORD"] }
"#;
