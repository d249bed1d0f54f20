-- A key that `cial login` made belongs to a person, and has no more rights than the person has at each request. No
-- foreign key, as with the tenant: a person goes, their keys stay, revoked.
ALTER TABLE api_keys ADD COLUMN person_id uuid;
CREATE INDEX api_keys_by_person ON api_keys (person_id, id) WHERE person_id IS NOT NULL;

CREATE FUNCTION users_revoke_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_keys SET revoked = true WHERE person_id = OLD.id AND NOT revoked;
    RETURN NULL;
END $$;
CREATE TRIGGER users_revoke_keys AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION users_revoke_keys();

-- Who leaves a tenant and comes back gets no old key back.
CREATE FUNCTION memberships_revoke_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_keys SET revoked = true
        WHERE person_id = OLD.user_id AND tenant_id = OLD.tenant_id AND NOT revoked;
    RETURN NULL;
END $$;
CREATE TRIGGER memberships_revoke_keys AFTER DELETE ON memberships FOR EACH ROW
    EXECUTE FUNCTION memberships_revoke_keys();
