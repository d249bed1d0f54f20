-- Who looked at a tenant as a viewer of the platform and becomes its member gets the new role with the next sign-in
-- there, which follows at once: the tenant sessions with the earlier role end.
CREATE FUNCTION memberships_revoke_grants_at_start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sso_grants SET revoked = true
        WHERE tenant_id = NEW.tenant_id AND user_id = NEW.user_id AND NOT revoked;
    IF FOUND THEN
        UPDATE sessions SET must_rotate = true WHERE user_id = NEW.user_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER memberships_revoke_grants_at_start AFTER INSERT ON memberships FOR EACH ROW
    EXECUTE FUNCTION memberships_revoke_grants_at_start();
