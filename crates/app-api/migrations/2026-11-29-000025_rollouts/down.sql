DROP TABLE rollout_tenants, rollouts;
