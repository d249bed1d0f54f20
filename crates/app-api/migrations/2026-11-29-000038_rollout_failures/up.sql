-- A rollout tolerates failures of single tenants, and what a tenant does after it ran on the release is its own.
ALTER TABLE rollouts ADD COLUMN max_failures integer NOT NULL DEFAULT 0 CHECK (max_failures >= 0);
-- When the tenant had been ready on the release for a while.
ALTER TABLE rollout_tenants ADD COLUMN settled_at timestamptz;
