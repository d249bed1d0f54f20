-- The second factor of a person: a secret shared with an authenticator app (RFC 6238), sealed with a key that is derived
-- from the installation's secret.
CREATE TABLE second_factors (
    user_id       uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    sealed_secret text NOT NULL,
    -- Null: the person has not proved yet that the app has the secret.
    confirmed_at  timestamptz,
    -- The latest time step whose code was accepted: no code works twice.
    last_step     bigint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL
);

-- Codes for a person whose app is lost. Using one deletes its row.
CREATE TABLE recovery_codes (
    code_hash bytea PRIMARY KEY,
    user_id   uuid NOT NULL REFERENCES second_factors ON DELETE CASCADE
);
CREATE INDEX recovery_codes_by_user ON recovery_codes (user_id);

-- A second factor that begins or ends replaces the tokens of the person's sessions.
CREATE FUNCTION second_factors_rotate_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_sessions(OLD.user_id);
    UPDATE sessions SET must_rotate = true WHERE user_id = OLD.user_id;
    RETURN NULL;
END $$;
CREATE TRIGGER second_factors_rotate_sessions_at_begin AFTER UPDATE OF confirmed_at ON second_factors FOR EACH ROW
    EXECUTE FUNCTION second_factors_rotate_sessions();
CREATE TRIGGER second_factors_rotate_sessions_at_end AFTER DELETE ON second_factors FOR EACH ROW
    WHEN (OLD.confirmed_at IS NOT NULL) EXECUTE FUNCTION second_factors_rotate_sessions();
