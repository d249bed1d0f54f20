-- When the owner last requested something: since then the tenant is stopping or waking.
ALTER TABLE tenants ADD COLUMN requested_at timestamptz NOT NULL DEFAULT now();

-- The tenants that an admin session opened. A tenant's session carries the id of the admin session and ends with it.
CREATE TABLE sso_grants (
    session_id uuid NOT NULL,
    tenant_id  uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    revoked    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (session_id, tenant_id)
);
CREATE INDEX sso_grants_by_user ON sso_grants (user_id);
CREATE INDEX sso_grants_by_tenant ON sso_grants (tenant_id);

-- A revocation is handed over like a changed policy, so that it survives every restart.
CREATE FUNCTION sso_grants_hand_over() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tenants SET changes_asked = changes_asked + 1 WHERE id = NEW.tenant_id;
    RETURN NULL;
END $$;
CREATE TRIGGER sso_grants_hand_over AFTER UPDATE OF revoked ON sso_grants FOR EACH ROW
    WHEN (NEW.revoked AND NOT OLD.revoked) EXECUTE FUNCTION sso_grants_hand_over();

-- A changed password or role ends every tenant session of the user, also after a change by hand.
CREATE FUNCTION users_revoke_grants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sso_grants SET revoked = true WHERE user_id = NEW.id AND NOT revoked;
    RETURN NULL;
END $$;
CREATE TRIGGER users_revoke_grants AFTER UPDATE OF password_hash, role ON users FOR EACH ROW
    WHEN ((OLD.password_hash, OLD.role) IS DISTINCT FROM (NEW.password_hash, NEW.role))
    EXECUTE FUNCTION users_revoke_grants();
