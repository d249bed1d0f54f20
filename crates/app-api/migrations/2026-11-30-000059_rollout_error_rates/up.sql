-- The share of failed responses above which a wave moves back, and how long a tenant is watched before the next wave.
ALTER TABLE rollouts
    ADD COLUMN max_error_percent integer NOT NULL DEFAULT 10 CHECK (max_error_percent BETWEEN 1 AND 100),
    ADD COLUMN watch_seconds integer NOT NULL DEFAULT 5 CHECK (watch_seconds BETWEEN 5 AND 86400);
-- What the routers counted since the tenant moved.
ALTER TABLE rollout_tenants
    ADD COLUMN responses bigint NOT NULL DEFAULT 0,
    ADD COLUMN server_errors bigint NOT NULL DEFAULT 0;
