-- Every change locks the sessions of a person, by id, before their grants, and the grants before the tenants. Two orders
-- could wait for each other.
CREATE FUNCTION lock_sessions(person uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM sessions WHERE user_id = person ORDER BY id FOR UPDATE;
END $$;

CREATE OR REPLACE FUNCTION memberships_revoke_grants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- The grants of a deleted tenant go with it, and the deletion holds its row already.
    IF EXISTS (SELECT FROM tenants WHERE id = OLD.tenant_id) THEN
        PERFORM lock_sessions(OLD.user_id);
        UPDATE sso_grants SET revoked = true
            WHERE tenant_id = OLD.tenant_id AND user_id = OLD.user_id AND NOT revoked;
        UPDATE sessions SET must_rotate = true WHERE user_id = OLD.user_id;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION memberships_revoke_grants_at_start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_sessions(NEW.user_id);
    UPDATE sso_grants SET revoked = true
        WHERE tenant_id = NEW.tenant_id AND user_id = NEW.user_id AND NOT revoked;
    IF FOUND THEN
        UPDATE sessions SET must_rotate = true WHERE user_id = NEW.user_id;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION users_revoke_grants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_sessions(NEW.id);
    UPDATE sso_grants SET revoked = true WHERE user_id = NEW.id AND NOT revoked;
    -- Whoever knew the old password may hold a key that they made with it.
    IF OLD.password_hash IS DISTINCT FROM NEW.password_hash THEN
        UPDATE api_keys SET revoked = true WHERE person_id = NEW.id AND NOT revoked;
    END IF;
    RETURN NULL;
END $$;
