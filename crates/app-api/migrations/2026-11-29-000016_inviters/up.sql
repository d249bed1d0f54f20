-- An invitation is worth what its inviter's rights are worth when it is accepted. Both null: made before this column;
-- such an invitation has ended.
ALTER TABLE invitations
    ADD COLUMN inviter_user uuid REFERENCES users ON DELETE CASCADE,
    ADD COLUMN inviter_key  uuid REFERENCES api_keys;
CREATE INDEX invitations_by_inviter_user ON invitations (inviter_user);
CREATE INDEX invitations_by_inviter_key ON invitations (inviter_key);

-- The widest platform role that the sender of the person's links could give. The sender may have kept a link and made
-- the account: nobody else may take it for a more powerful person's.
ALTER TABLE users
    ADD COLUMN vouched_role text NOT NULL DEFAULT 'none' CHECK (vouched_role IN ('owner', 'admin', 'viewer', 'none'));
UPDATE users SET vouched_role = role;
