-- Tenants that may have executions to run. What they run lies in the schema of each tenant and is not here.
CREATE TABLE open_work (
    tenant_id  uuid PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    -- The last request, such as a new execution or a cancellation.
    touched_at timestamptz NOT NULL,
    -- Counts the requests, so that the holder notices one more.
    touches    bigint NOT NULL DEFAULT 0,
    -- When somebody looks next: at once, after a delay, or when the claim of `holder` has run out.
    due_at     timestamptz NOT NULL,
    holder     uuid,
    -- How often in a row the records of the tenant could not be read or written.
    failures   integer NOT NULL DEFAULT 0
);
CREATE INDEX open_work_due ON open_work (due_at);
