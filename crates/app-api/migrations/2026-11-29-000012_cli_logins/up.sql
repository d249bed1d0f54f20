-- Sign-ins of the command line that a person confirms in the browser. Fetching the key, or refusing, deletes the row.
CREATE TABLE cli_logins (
    id         uuid PRIMARY KEY,
    -- For people: to compare, or to type in.
    user_code  text NOT NULL UNIQUE,
    -- The SHA-256 of the verifier that fetches the key (RFC 7636).
    challenge  bytea NOT NULL,
    device     text NOT NULL,
    address    text NOT NULL,
    -- Where the command listens for the one-time code; null: the command asks until the sign-in is confirmed.
    redirect   text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- The session that confirmed the sign-in; a session that is replaced takes the sign-in along.
    session_id uuid REFERENCES sessions ON UPDATE CASCADE ON DELETE CASCADE,
    -- Null: a key of all tenants.
    tenant_id  uuid REFERENCES tenants ON DELETE CASCADE,
    code_hash  bytea
);
CREATE INDEX cli_logins_by_session ON cli_logins (session_id);
CREATE INDEX cli_logins_by_tenant ON cli_logins (tenant_id);
