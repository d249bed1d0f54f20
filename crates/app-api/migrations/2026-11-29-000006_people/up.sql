-- Platform roles. `none`: a person who only belongs to tenants. There may be several owners; the first sign-up is
-- kept unique by a lock.
ALTER TABLE users DROP CONSTRAINT IF EXISTS users_role_check;
ALTER TABLE users ADD CONSTRAINT users_role_check CHECK (role IN ('owner', 'admin', 'viewer', 'none'));
DROP INDEX users_one_owner;
CREATE INDEX users_by_role ON users (role);

-- A session ends at `expires_at`, which requests near the end move on. A changed role or password replaces the id and
-- the token at the next request; the previous token stays valid for the requests that were on their way.
ALTER TABLE sessions
    ADD COLUMN expires_at          timestamptz NOT NULL DEFAULT now() + interval '30 minutes',
    ADD COLUMN address             text NOT NULL DEFAULT '',
    ADD COLUMN user_agent          text NOT NULL DEFAULT '',
    ADD COLUMN must_rotate         boolean NOT NULL DEFAULT false,
    ADD COLUMN previous_token_hash bytea,
    ADD COLUMN rotated_at          timestamptz,
    ADD CONSTRAINT sessions_rotation CHECK ((previous_token_hash IS NULL) = (rotated_at IS NULL));
UPDATE sessions SET expires_at = least(last_seen_at + interval '30 minutes', created_at + interval '12 hours');
CREATE UNIQUE INDEX sessions_by_previous_token ON sessions (previous_token_hash)
    WHERE previous_token_hash IS NOT NULL;
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

CREATE FUNCTION users_rotate_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sessions SET must_rotate = true WHERE user_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER users_rotate_sessions AFTER UPDATE OF password_hash, role ON users FOR EACH ROW
    WHEN ((OLD.password_hash, OLD.role) IS DISTINCT FROM (NEW.password_hash, NEW.role))
    EXECUTE FUNCTION users_rotate_sessions();
