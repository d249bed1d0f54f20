CREATE OR REPLACE FUNCTION tenants_depart() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO departed (id, slug) VALUES (OLD.id, OLD.slug) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
-- What only this version could make goes with it.
DELETE FROM idempotency_keys WHERE owner_id NOT IN (SELECT id FROM users);
ALTER TABLE idempotency_keys ADD CONSTRAINT idempotency_keys_owner_id_fkey
    FOREIGN KEY (owner_id) REFERENCES users ON DELETE CASCADE;
ALTER TABLE tenants ALTER COLUMN owner_id SET NOT NULL;
DELETE FROM users WHERE role <> 'owner';
ALTER TABLE users DROP CONSTRAINT users_role_check;
ALTER TABLE users ADD CONSTRAINT users_role_check CHECK (role IN ('owner'));
DROP TABLE memberships;
DROP TABLE api_keys;
