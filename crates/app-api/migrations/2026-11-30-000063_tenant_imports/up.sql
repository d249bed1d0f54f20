-- Tenants whose data are being imported. A tenant in it does not start; one whose import ended without success is deleted.
CREATE TABLE tenant_imports (
    tenant_id   uuid PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    -- The process that imports moves this on. Once it has passed, nobody continues the import.
    alive_until timestamptz NOT NULL
);
