DROP TRIGGER users_revoke_grants ON users;
DROP FUNCTION users_revoke_grants;
DROP TABLE sso_grants;
DROP FUNCTION sso_grants_hand_over;
ALTER TABLE tenants DROP COLUMN requested_at;
