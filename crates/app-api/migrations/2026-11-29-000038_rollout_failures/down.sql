ALTER TABLE rollout_tenants DROP COLUMN settled_at;
ALTER TABLE rollouts DROP COLUMN max_failures;
