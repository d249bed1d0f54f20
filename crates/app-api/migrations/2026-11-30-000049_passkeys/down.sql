DROP TRIGGER users_end_passkeys_at_password ON users;
DROP FUNCTION users_end_passkeys;
DROP TABLE passkey_challenges;
DROP TABLE passkeys;
DROP FUNCTION passkeys_rotate_sessions;
