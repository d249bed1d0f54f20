-- Keys of programs. The text of a key is shown once; the table holds its SHA-256.
CREATE TABLE api_keys (
    id              uuid PRIMARY KEY,
    key_hash        bytea NOT NULL UNIQUE,
    name            text NOT NULL,
    role            text NOT NULL CHECK (role IN ('read', 'write', 'admin')),
    -- May do everything.
    is_admin        boolean NOT NULL DEFAULT false,
    -- The only tenant of the key; null: a key of all tenants. No foreign key: a tenant goes, its keys stay, revoked.
    tenant_id       uuid,
    created_by_user uuid REFERENCES users ON DELETE SET NULL,
    -- A key that made others cannot be deleted: revoke it.
    created_by_key  uuid REFERENCES api_keys,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- Null: never.
    expires_at      timestamptz,
    last_used_at    timestamptz,
    revoked         boolean NOT NULL DEFAULT false,
    CHECK (NOT is_admin OR (tenant_id IS NULL AND role = 'admin'))
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id);

-- The people of each tenant.
CREATE TABLE memberships (
    tenant_id  uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    role       text NOT NULL CHECK (role IN ('admin', 'member', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX memberships_by_user ON memberships (user_id);

-- 'none': a person with memberships only.
ALTER TABLE users DROP CONSTRAINT IF EXISTS users_role_check;
ALTER TABLE users ADD CONSTRAINT users_role_check CHECK (role IN ('owner', 'admin', 'viewer', 'none'));

-- A tenant that a key created has no owner, and an idempotency key belongs to a user or to an API key.
ALTER TABLE tenants ALTER COLUMN owner_id DROP NOT NULL;
ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_owner_id_fkey;

-- The keys of a tenant end with it; another tenant of the same slug has another id.
CREATE OR REPLACE FUNCTION tenants_depart() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO departed (id, slug) VALUES (OLD.id, OLD.slug) ON CONFLICT DO NOTHING;
    UPDATE api_keys SET revoked = true WHERE tenant_id = OLD.id AND NOT revoked;
    RETURN NULL;
END $$;
