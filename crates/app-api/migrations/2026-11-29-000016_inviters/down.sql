ALTER TABLE users DROP COLUMN vouched_role;
ALTER TABLE invitations DROP COLUMN inviter_user, DROP COLUMN inviter_key;
