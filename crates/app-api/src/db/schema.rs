//! The tables as migrations leave them. A test compares this with a migrated database.

diesel::table! {
    installation (only_one) {
        only_one -> Bool,
        name -> Text,
        fingerprint -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    users (id) {
        id -> Uuid,
        email -> Text,
        name -> Text,
        role -> Text,
        password_hash -> Text,
        created_at -> Timestamptz,
        vouched_role -> Text,
    }
}

diesel::table! {
    sessions (id) {
        id -> Uuid,
        token_hash -> Bytea,
        user_id -> Uuid,
        created_at -> Timestamptz,
        last_seen_at -> Timestamptz,
        expires_at -> Timestamptz,
        address -> Text,
        user_agent -> Text,
        must_rotate -> Bool,
        previous_token_hash -> Nullable<Bytea>,
        rotated_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    reset_links (token_hash) {
        token_hash -> Bytea,
        user_id -> Uuid,
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    mails (id) {
        id -> Uuid,
        kind -> Text,
        recipient -> Text,
        content -> Text,
        attempts -> Int4,
        next_attempt_at -> Timestamptz,
        expires_at -> Timestamptz,
        queued_at -> Timestamptz,
        last_error -> Nullable<Text>,
    }
}

diesel::table! {
    tenants (id) {
        id -> Uuid,
        slug -> Text,
        name -> Text,
        owner_id -> Nullable<Uuid>,
        desired -> Text,
        state -> Text,
        state_since -> Timestamptz,
        state_reason -> Nullable<Text>,
        revision -> Int8,
        moves -> Int8,
        generation -> Int8,
        image -> Nullable<Text>,
        env -> Jsonb,
        limits -> Jsonb,
        policy -> Jsonb,
        container_id -> Nullable<Text>,
        container_port -> Nullable<Int4>,
        upstream -> Jsonb,
        restarts_asked -> Int8,
        restarts_done -> Int8,
        changes_asked -> Int8,
        changes_done -> Int8,
        wakes_asked -> Int8,
        wakes_done -> Int8,
        crashes -> Jsonb,
        gave_up -> Bool,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        requested_at -> Timestamptz,
        release_id -> Nullable<Uuid>,
        app -> Jsonb,
        database -> Jsonb,
    }
}

diesel::table! {
    open_work (tenant_id) {
        tenant_id -> Uuid,
        touched_at -> Timestamptz,
        touches -> Int8,
        due_at -> Timestamptz,
        holder -> Nullable<Uuid>,
        failures -> Int4,
    }
}

diesel::table! {
    triggers (id) {
        id -> Uuid,
        tenant_id -> Uuid,
        name -> Text,
        workflow -> Text,
        kind -> Text,
        cron -> Nullable<Text>,
        time_zone -> Nullable<Text>,
        catch_up -> Text,
        context -> Jsonb,
        paused -> Bool,
        next_fire_at -> Nullable<Timestamptz>,
        not_before -> Timestamptz,
        failures -> Int4,
        last_fire_at -> Nullable<Timestamptz>,
        last_execution_id -> Nullable<Uuid>,
        last_failure -> Nullable<Text>,
        created_by -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    apps (id) {
        id -> Uuid,
        slug -> Text,
        name -> Text,
        created_at -> Timestamptz,
        sealed_env -> Nullable<Text>,
    }
}

diesel::table! {
    releases (id) {
        id -> Uuid,
        app_id -> Uuid,
        number -> Int4,
        image -> Text,
        image_id -> Text,
        process -> Jsonb,
        env -> Jsonb,
        created_at -> Timestamptz,
        repository_digest -> Nullable<Text>,
    }
}

diesel::table! {
    retired_sealing_keys (id) {
        id -> Text,
        retired_at -> Timestamptz,
    }
}

diesel::table! {
    registries (host) {
        host -> Text,
        username -> Text,
        sealed_login -> Text,
        updated_by -> Text,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    package_keys (public_key) {
        public_key -> Bytea,
        name -> Text,
        created_by -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    package_signatures (package_id) {
        package_id -> Uuid,
        tenant_id -> Uuid,
        public_key -> Bytea,
        sha256 -> Bytea,
        signature -> Bytea,
        pinned_at -> Timestamptz,
    }
}

diesel::table! {
    rollouts (id) {
        id -> Uuid,
        app_id -> Uuid,
        release_id -> Uuid,
        state -> Text,
        time_window -> Nullable<Text>,
        reason -> Nullable<Text>,
        log -> Nullable<Text>,
        created_by -> Text,
        created_at -> Timestamptz,
        finished_at -> Nullable<Timestamptz>,
        max_failures -> Int4,
        max_error_percent -> Int4,
        watch_seconds -> Int4,
    }
}

diesel::table! {
    rollout_tenants (rollout_id, tenant_id) {
        rollout_id -> Uuid,
        tenant_id -> Uuid,
        wave -> Int4,
        state -> Text,
        from_number -> Int4,
        was_failing -> Bool,
        reason -> Nullable<Text>,
        changed_at -> Timestamptz,
        settled_at -> Nullable<Timestamptz>,
        responses -> Int8,
        server_errors -> Int8,
    }
}

diesel::table! {
    api_keys (id) {
        id -> Uuid,
        key_hash -> Bytea,
        name -> Text,
        role -> Text,
        is_admin -> Bool,
        tenant_id -> Nullable<Uuid>,
        created_by_user -> Nullable<Uuid>,
        created_by_key -> Nullable<Uuid>,
        created_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
        last_used_at -> Nullable<Timestamptz>,
        revoked -> Bool,
        person_id -> Nullable<Uuid>,
    }
}

diesel::table! {
    memberships (tenant_id, user_id) {
        tenant_id -> Uuid,
        user_id -> Uuid,
        role -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    departed (id) {
        id -> Uuid,
        slug -> Text,
        at -> Timestamptz,
    }
}

diesel::table! {
    idempotency_keys (owner_id, key) {
        owner_id -> Uuid,
        key -> Text,
        body_hash -> Bytea,
        answer -> Jsonb,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    sso_grants (session_id, tenant_id) {
        session_id -> Uuid,
        tenant_id -> Uuid,
        user_id -> Uuid,
        expires_at -> Timestamptz,
        revoked -> Bool,
    }
}

diesel::table! {
    audit_log (id) {
        id -> Int8,
        at -> Timestamptz,
        actor_kind -> Text,
        actor_id -> Nullable<Uuid>,
        actor -> Text,
        role -> Text,
        session_id -> Nullable<Uuid>,
        action -> Text,
        resource_kind -> Text,
        resource -> Text,
        before -> Nullable<Jsonb>,
        after -> Nullable<Jsonb>,
        address -> Text,
        request_id -> Text,
        hash -> Bytea,
    }
}

diesel::table! {
    audit_head (only_one) {
        only_one -> Bool,
        id -> Int8,
        hash -> Bytea,
    }
}

diesel::table! {
    invitations (id) {
        id -> Uuid,
        token_hash -> Bytea,
        email -> Text,
        role -> Text,
        tenant_id -> Nullable<Uuid>,
        invited_by -> Text,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
        inviter_user -> Nullable<Uuid>,
        inviter_key -> Nullable<Uuid>,
    }
}

diesel::table! {
    cli_logins (id) {
        id -> Uuid,
        user_code -> Text,
        challenge -> Bytea,
        device -> Text,
        address -> Text,
        redirect -> Nullable<Text>,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
        session_id -> Nullable<Uuid>,
        tenant_id -> Nullable<Uuid>,
        code_hash -> Nullable<Bytea>,
    }
}

diesel::table! {
    second_factors (user_id) {
        user_id -> Uuid,
        sealed_secret -> Text,
        confirmed_at -> Nullable<Timestamptz>,
        last_step -> Int8,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    recovery_codes (code_hash) {
        code_hash -> Bytea,
        user_id -> Uuid,
    }
}

diesel::table! {
    passkeys (id) {
        id -> Uuid,
        user_id -> Uuid,
        credential_id -> Bytea,
        static_state -> Bytea,
        dynamic_state -> Bytea,
        name -> Text,
        created_at -> Timestamptz,
        last_used_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    passkey_challenges (challenge) {
        challenge -> Bytea,
        state -> Bytea,
        user_id -> Nullable<Uuid>,
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    webhooks (id) {
        id -> Uuid,
        url -> Text,
        created_by -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    webhook_deliveries (id) {
        id -> Uuid,
        webhook_id -> Uuid,
        event -> Text,
        payload -> Jsonb,
        state -> Text,
        attempts -> Int4,
        next_attempt_at -> Timestamptz,
        last_status -> Nullable<Int4>,
        last_error -> Nullable<Text>,
        created_at -> Timestamptz,
        finished_at -> Nullable<Timestamptz>,
    }
}

diesel::joinable!(rollouts -> releases (release_id));
diesel::joinable!(rollout_tenants -> tenants (tenant_id));
diesel::joinable!(rollout_tenants -> rollouts (rollout_id));
diesel::table! {
    conversation_summaries (tenant_id, user_id, conversation_id) {
        tenant_id -> Uuid,
        user_id -> Uuid,
        conversation_id -> Uuid,
        messages -> Int8,
        tokens -> Int8,
        last_activity_at -> Timestamptz,
    }
}

diesel::table! {
    summary_positions (tenant_id) {
        tenant_id -> Uuid,
        position -> Int8,
    }
}

diesel::table! {
    event_log (id) {
        id -> Int8,
        at -> Timestamptz,
        kind -> Text,
        tenant_id -> Nullable<Uuid>,
        access -> Text,
        person_id -> Nullable<Uuid>,
        tenant -> Jsonb,
        resource -> Jsonb,
    }
}

diesel::table! {
    event_head (only_one) {
        only_one -> Bool,
        id -> Int8,
    }
}

diesel::table! {
    tenant_imports (tenant_id) {
        tenant_id -> Uuid,
        alive_until -> Timestamptz,
    }
}

diesel::table! {
    database_sizes (tenant_id) {
        tenant_id -> Uuid,
        bytes -> Int8,
        measured_at -> Timestamptz,
    }
}

diesel::table! {
    model_endpoint (only_one) {
        only_one -> Bool,
        base_url -> Text,
        model -> Text,
        sealed_key -> Nullable<Text>,
        system_prompt -> Nullable<Text>,
        max_tokens -> Nullable<Int4>,
        requests_per_minute -> Int4,
        tokens_per_day -> Int8,
        updated_by -> Text,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    model_usage (tenant_id, day) {
        tenant_id -> Uuid,
        day -> Date,
        requests -> Int8,
        prompt_tokens -> Int8,
        completion_tokens -> Int8,
        charged_tokens -> Int8,
        minute -> Int8,
        minute_requests -> Int4,
    }
}

diesel::table! {
    backups (id) {
        id -> Uuid,
        tenant_id -> Uuid,
        slug -> Text,
        state -> Text,
        due_at -> Timestamptz,
        requested_by -> Nullable<Text>,
        not_before -> Timestamptz,
        failures -> Int4,
        failure -> Nullable<Text>,
        object -> Text,
        taken_at -> Nullable<Timestamptz>,
        current_at -> Nullable<Timestamptz>,
        bytes -> Nullable<Int8>,
        sha256 -> Nullable<Bytea>,
        last_start -> Nullable<Text>,
    }
}

diesel::table! {
    backup_schedule (only_one) {
        only_one -> Bool,
        planned_until -> Timestamptz,
    }
}

diesel::joinable!(tenant_imports -> tenants (tenant_id));
diesel::joinable!(webhook_deliveries -> webhooks (webhook_id));
diesel::joinable!(invitations -> tenants (tenant_id));
diesel::joinable!(memberships -> tenants (tenant_id));
diesel::joinable!(memberships -> users (user_id));
diesel::joinable!(sessions -> users (user_id));
diesel::joinable!(passkeys -> users (user_id));
diesel::joinable!(reset_links -> users (user_id));
diesel::allow_tables_to_appear_in_same_query!(users, sessions, reset_links);
diesel::allow_tables_to_appear_in_same_query!(users, passkeys);
diesel::allow_tables_to_appear_in_same_query!(tenants, api_keys);
diesel::allow_tables_to_appear_in_same_query!(users, api_keys);
diesel::allow_tables_to_appear_in_same_query!(users, tenants);
diesel::allow_tables_to_appear_in_same_query!(tenants, memberships);
diesel::allow_tables_to_appear_in_same_query!(tenants, invitations);
diesel::allow_tables_to_appear_in_same_query!(tenants, releases);
diesel::allow_tables_to_appear_in_same_query!(tenants, tenant_imports);
diesel::allow_tables_to_appear_in_same_query!(tenants, backups);
diesel::allow_tables_to_appear_in_same_query!(rollouts, releases);
diesel::allow_tables_to_appear_in_same_query!(rollout_tenants, tenants);
diesel::allow_tables_to_appear_in_same_query!(rollout_tenants, rollouts);
diesel::allow_tables_to_appear_in_same_query!(users, memberships);
diesel::allow_tables_to_appear_in_same_query!(event_log, memberships);
diesel::allow_tables_to_appear_in_same_query!(webhooks, webhook_deliveries);
