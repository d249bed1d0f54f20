-- The sizes of tenants' schemas as they were last measured. Apart from `tenants`: a measurement is no change of the tenant.
CREATE TABLE database_sizes (
    tenant_id   uuid PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    bytes       bigint NOT NULL,
    measured_at timestamptz NOT NULL
);
