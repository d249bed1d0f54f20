-- The passkeys of people (WebAuthn): public keys alone, the private ones never leave the authenticators.
CREATE TABLE passkeys (
    id            uuid PRIMARY KEY,
    user_id       uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    -- The authenticator's name for the key.
    credential_id bytea NOT NULL UNIQUE,
    -- The public key with its algorithm, as webauthn_rp encodes them.
    static_state  bytea NOT NULL,
    -- The counter of signatures and the state of backups, as webauthn_rp encodes them. Each sign-in may change them.
    dynamic_state bytea NOT NULL,
    name          text NOT NULL,
    created_at    timestamptz NOT NULL,
    last_used_at  timestamptz
);
CREATE INDEX passkeys_by_user ON passkeys (user_id);

-- Challenges that wait for a response. Using one deletes its row.
CREATE TABLE passkey_challenges (
    challenge  bytea PRIMARY KEY,
    -- What the response must fulfil, as webauthn_rp encodes it.
    state      bytea NOT NULL,
    -- The person who registers a passkey; null: a sign-in.
    user_id    uuid REFERENCES users ON DELETE CASCADE,
    expires_at timestamptz NOT NULL
);
CREATE INDEX passkey_challenges_by_user ON passkey_challenges (user_id);
CREATE INDEX passkey_challenges_by_expiry ON passkey_challenges (expires_at);

-- A passkey that comes or goes replaces the tokens of the person's sessions.
CREATE FUNCTION passkeys_rotate_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    person uuid := coalesce(NEW.user_id, OLD.user_id);
BEGIN
    PERFORM lock_sessions(person);
    UPDATE sessions SET must_rotate = true WHERE user_id = person;
    RETURN NULL;
END $$;
CREATE TRIGGER passkeys_rotate_sessions AFTER INSERT OR DELETE ON passkeys FOR EACH ROW
    EXECUTE FUNCTION passkeys_rotate_sessions();

-- A stranger who knew the old password may have added a passkey with it.
CREATE FUNCTION users_end_passkeys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM passkeys WHERE user_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER users_end_passkeys_at_password AFTER UPDATE OF password_hash ON users FOR EACH ROW
    WHEN (OLD.password_hash IS DISTINCT FROM NEW.password_hash) EXECUTE FUNCTION users_end_passkeys();
