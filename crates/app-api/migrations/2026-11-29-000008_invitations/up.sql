-- Open invitations: by platform role, or by role on a tenant. Accepting or revoking one deletes its row.
CREATE TABLE invitations (
    id         uuid PRIMARY KEY,
    token_hash bytea NOT NULL UNIQUE,
    email      text NOT NULL CHECK (email = lower(email)),
    role       text NOT NULL,
    tenant_id  uuid REFERENCES tenants ON DELETE CASCADE,
    invited_by text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CHECK (role IN ('owner', 'admin', 'viewer') AND tenant_id IS NULL
        OR role IN ('admin', 'member', 'viewer') AND tenant_id IS NOT NULL)
);
-- A later invitation of the same person replaces the earlier one.
CREATE UNIQUE INDEX invitations_one_of_each ON invitations (email, coalesce(tenant_id, '00000000-0000-0000-0000-000000000000'));
CREATE INDEX invitations_by_tenant ON invitations (tenant_id);

-- Who leaves a tenant, or gets another role on it, leaves the tenant sessions, too; also after a change by hand.
CREATE FUNCTION memberships_revoke_grants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sso_grants SET revoked = true
        WHERE tenant_id = OLD.tenant_id AND user_id = OLD.user_id AND NOT revoked;
    UPDATE sessions SET must_rotate = true WHERE user_id = OLD.user_id;
    RETURN NULL;
END $$;
CREATE TRIGGER memberships_revoke_grants_at_change AFTER UPDATE OF role ON memberships FOR EACH ROW
    WHEN (OLD.role IS DISTINCT FROM NEW.role) EXECUTE FUNCTION memberships_revoke_grants();
CREATE TRIGGER memberships_revoke_grants_at_end AFTER DELETE ON memberships FOR EACH ROW
    EXECUTE FUNCTION memberships_revoke_grants();

-- A grant outlives its user, so that the tenant sessions of a deleted person end. A deleted person's tenants stay.
ALTER TABLE sso_grants DROP CONSTRAINT sso_grants_user_id_fkey;
ALTER TABLE tenants DROP CONSTRAINT tenants_owner_id_fkey;
ALTER TABLE tenants ADD CONSTRAINT tenants_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users ON DELETE SET NULL;
CREATE FUNCTION users_revoke_grants_at_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sso_grants SET revoked = true WHERE user_id = OLD.id AND NOT revoked;
    RETURN NULL;
END $$;
CREATE TRIGGER users_revoke_grants_at_end AFTER DELETE ON users FOR EACH ROW
    EXECUTE FUNCTION users_revoke_grants_at_end();
