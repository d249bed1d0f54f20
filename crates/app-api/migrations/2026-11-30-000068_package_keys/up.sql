-- Keys of Ed25519 whose signatures of packages the installation trusts.
CREATE TABLE package_keys (
    public_key bytea PRIMARY KEY CHECK (octet_length(public_key) = 32),
    name       text NOT NULL UNIQUE,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL
);

-- Which key signed a package. Here and not in the schema of the tenant, who can write there what it likes.
CREATE TABLE package_signatures (
    package_id uuid PRIMARY KEY,
    tenant_id  uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    -- No foreign key: a signature outlives the trust in its key, and counts again once the key is added again.
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    sha256     bytea NOT NULL CHECK (octet_length(sha256) = 32),
    signature  bytea NOT NULL CHECK (octet_length(signature) = 64),
    pinned_at  timestamptz NOT NULL
);
CREATE INDEX package_signatures_by_tenant ON package_signatures (tenant_id);
CREATE INDEX package_signatures_by_key ON package_signatures (public_key);
