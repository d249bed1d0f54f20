-- Whose database this is: an installation never meets another's.
CREATE TABLE installation (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    name        text NOT NULL,
    fingerprint text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    id            uuid PRIMARY KEY,
    email         text NOT NULL UNIQUE CHECK (email = lower(email)),
    name          text NOT NULL,
    role          text NOT NULL CHECK (role IN ('owner')),
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
-- Of any number of first sign-ups at once, one makes an owner.
CREATE UNIQUE INDEX users_one_owner ON users (role) WHERE role = 'owner';

CREATE TABLE sessions (
    id           uuid PRIMARY KEY,
    token_hash   bytea NOT NULL UNIQUE,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at   timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL
);
CREATE INDEX sessions_by_user ON sessions (user_id);

CREATE TABLE reset_links (
    token_hash bytea PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    expires_at timestamptz NOT NULL
);

CREATE TABLE tenants (
    id                   uuid PRIMARY KEY,
    slug                 text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9-]{2,40}$'),
    name                 text NOT NULL,
    owner_id             uuid NOT NULL REFERENCES users,
    desired              text NOT NULL DEFAULT 'running' CHECK (desired IN ('running', 'stopped', 'deleted')),
    state                text NOT NULL DEFAULT 'provisioning' CHECK (state IN
        ('provisioning', 'starting', 'running', 'frozen', 'sleeping', 'stopped', 'error', 'deleting')),
    state_since          timestamptz NOT NULL DEFAULT now(),
    state_reason         text,
    revision             bigint NOT NULL DEFAULT 1,
    generation           bigint NOT NULL DEFAULT 1,
    image                text,
    env                  jsonb NOT NULL DEFAULT '{}',
    limits               jsonb NOT NULL,
    policy               jsonb NOT NULL,
    container_id         text,
    container_port       integer CHECK (container_port BETWEEN 1 AND 65535),
    upstream             jsonb NOT NULL DEFAULT 'null',
    -- Asked for and done, counted: a wish is never lost, however often the control plane dies.
    restarts_asked       bigint NOT NULL DEFAULT 0,
    restarts_done        bigint NOT NULL DEFAULT 0,
    changes_asked        bigint NOT NULL DEFAULT 0,
    changes_done         bigint NOT NULL DEFAULT 0,
    -- Exits without readiness, as counted so far, and whether they were enough to give up.
    crashes              jsonb NOT NULL DEFAULT '{}',
    gave_up              boolean NOT NULL DEFAULT false,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now()
);

-- Tenants that this database has known and let go. A container without a row is removed only if its tenant is
-- here: one that this database never heard of (a restored backup, a lost volume) is left alone.
CREATE TABLE departed (
    id   uuid PRIMARY KEY,
    slug text NOT NULL,
    at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE idempotency_keys (
    owner_id   uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    key        text NOT NULL,
    body_hash  bytea NOT NULL,
    answer     jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, key)
);

-- The revision grows with every change, also with one made by hand.
CREATE FUNCTION tenants_revise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := OLD.revision + 1;
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER tenants_revise BEFORE UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION tenants_revise();

CREATE FUNCTION tenants_depart() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO departed (id, slug) VALUES (OLD.id, OLD.slug) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER tenants_depart AFTER DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION tenants_depart();

-- A hint, never the truth: listeners read the table again.
CREATE FUNCTION tenants_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY tenants;
    RETURN NULL;
END $$;
CREATE TRIGGER tenants_tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tenants
    FOR EACH STATEMENT EXECUTE FUNCTION tenants_tell();
