CREATE OR REPLACE FUNCTION users_revoke_grants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sso_grants SET revoked = true WHERE user_id = NEW.id AND NOT revoked;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION memberships_revoke_grants_at_start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sso_grants SET revoked = true
        WHERE tenant_id = NEW.tenant_id AND user_id = NEW.user_id AND NOT revoked;
    IF FOUND THEN
        UPDATE sessions SET must_rotate = true WHERE user_id = NEW.user_id;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION memberships_revoke_grants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sso_grants SET revoked = true
        WHERE tenant_id = OLD.tenant_id AND user_id = OLD.user_id AND NOT revoked;
    UPDATE sessions SET must_rotate = true WHERE user_id = OLD.user_id;
    RETURN NULL;
END $$;

DROP FUNCTION lock_sessions;
