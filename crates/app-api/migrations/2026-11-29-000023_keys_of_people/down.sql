DROP TRIGGER memberships_revoke_keys ON memberships;
DROP FUNCTION memberships_revoke_keys;
DROP TRIGGER users_revoke_keys ON users;
DROP FUNCTION users_revoke_keys;
ALTER TABLE api_keys DROP COLUMN person_id;
