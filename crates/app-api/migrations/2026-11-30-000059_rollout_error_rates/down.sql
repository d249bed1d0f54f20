ALTER TABLE rollout_tenants DROP COLUMN server_errors, DROP COLUMN responses;
ALTER TABLE rollouts DROP COLUMN watch_seconds, DROP COLUMN max_error_percent;
