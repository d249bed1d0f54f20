//! The in-place change of a tenant, field by field. Pure.

use std::ops::RangeInclusive;

use protocol::problem::FieldCode;
use protocol::spec::{Limits, Policy, WakeOn};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::ToSchema;

use crate::validation;

/// A change as received: absent fields stay, and in a policy `null` means the installation's setting.
/// [`Change::apply_to`] parses the values and reports each error at its field.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, nullable = false, max_length = 100)]
    pub name: Option<Value>,
    #[serde(default, deserialize_with = "service::json_object::read")]
    pub limits: LimitsChange,
    #[serde(default, deserialize_with = "service::json_object::read")]
    pub policy: PolicyChange,
    /// Whether rollouts leave the tenant alone.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<bool>, nullable = false)]
    pub pinned: Option<Value>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsChange {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, nullable = false, minimum = 10, maximum = 1024000)]
    pub cpu_millis: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, nullable = false, minimum = 33554432, maximum = 4398046511104_u64)]
    pub memory_bytes: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, nullable = false, minimum = 32, maximum = 1000000)]
    pub pids: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, nullable = false, minimum = 67108864, maximum = 1125899906842624_u64)]
    pub disk_bytes: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, nullable = false, minimum = 16777216, maximum = 1125899906842624_u64)]
    pub database_bytes: Option<Value>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyChange {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 31536000)]
    pub freeze_after_seconds: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 31536000)]
    pub sleep_after_seconds: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 31536000)]
    pub max_awake_seconds: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<protocol::spec::WakeOn>)]
    pub wake_on: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<bool>)]
    pub require_sign_in: Option<Value>,
}

/// The changeable fields of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct Changeable {
    pub name: String,
    pub limits: Limits,
    pub policy: Policy,
    pub pinned: bool,
}

/// The reason for which the value of one field is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: &'static str,
    pub code: FieldCode,
    pub message: String,
}

// Below these bounds the five services of a tenant do not fit.
pub const CPU_MILLIS: RangeInclusive<u64> = 10..=1_024_000;
pub const MEMORY_BYTES: RangeInclusive<u64> = (32 << 20)..=(1 << 42);
pub const PIDS: RangeInclusive<u64> = 32..=1_000_000;
/// 64 MiB to 1 PiB.
pub const DISK_BYTES: RangeInclusive<u64> = (64 << 20)..=(1 << 50);
/// 16 MiB to 1 PiB. An empty schema has half a MiB.
pub const DATABASE_BYTES: RangeInclusive<u64> = (16 << 20)..=Limits::MAX_DATABASE_BYTES;
/// At most a year.
pub const SECONDS: RangeInclusive<u64> = 0..=31_536_000;

pub const FREEZE: &str = "policy.freeze_after_seconds";
pub const SLEEP: &str = "policy.sleep_after_seconds";
pub const MAX_AWAKE: &str = "policy.max_awake_seconds";
pub const WAKE_ON: &str = "policy.wake_on";
pub const REQUIRE_SIGN_IN: &str = "policy.require_sign_in";

impl Change {
    /// Returns `now` with the change applied.
    ///
    /// # Errors
    /// Every field with an invalid value.
    pub fn apply_to(&self, now: &Changeable) -> Result<Changeable, Vec<FieldError>> {
        let (mut next, mut errors) = (now.clone(), Vec::new());
        let (limits, policy) = (&self.limits, &self.policy);
        let mut collect = |error: Option<FieldError>| errors.extend(error);
        collect(set_field(&mut next.name, &self.name, name));
        let next_limits = &mut next.limits;
        collect(set_field(&mut next_limits.cpu_millis, &limits.cpu_millis, |v| {
            whole_number("limits.cpu_millis", v, CPU_MILLIS)
        }));
        collect(set_field(&mut next_limits.memory_bytes, &limits.memory_bytes, |v| {
            whole_number("limits.memory_bytes", v, MEMORY_BYTES)
        }));
        collect(set_field(&mut next_limits.pids, &limits.pids, |v| {
            whole_number("limits.pids", v, PIDS)
        }));
        collect(set_field(&mut next_limits.disk_bytes, &limits.disk_bytes, |v| {
            whole_number("limits.disk_bytes", v, DISK_BYTES)
        }));
        collect(set_field(&mut next_limits.database_bytes, &limits.database_bytes, |v| {
            whole_number("limits.database_bytes", v, DATABASE_BYTES)
        }));
        let next_policy = &mut next.policy;
        for (field, to, value) in [
            (FREEZE, &mut next_policy.freeze_after_seconds, &policy.freeze_after_seconds),
            (SLEEP, &mut next_policy.sleep_after_seconds, &policy.sleep_after_seconds),
            (MAX_AWAKE, &mut next_policy.max_awake_seconds, &policy.max_awake_seconds),
        ] {
            collect(set_field(to, value, |v| seconds(field, v)));
        }
        collect(set_field(&mut next_policy.wake_on, &policy.wake_on, wake_on));
        let required = &mut next_policy.require_sign_in;
        collect(set_field(required, &policy.require_sign_in, require_sign_in));
        collect(set_field(&mut next.pinned, &self.pinned, pinned));
        if errors.is_empty() {
            errors.extend(self.contradiction(&next.policy));
        }
        if errors.is_empty() { Ok(next) } else { Err(errors) }
    }

    /// A sleep before the freeze, reported at the field that was sent. Only the tenant's own values are compared: a
    /// short sleep against the installation's freeze is intended.
    fn contradiction(&self, policy: &Policy) -> Option<FieldError> {
        let (freeze, sleep) = (policy.freeze_after_seconds?, policy.sleep_after_seconds?);
        if freeze == 0 || sleep == 0 || sleep >= freeze {
            return None;
        }
        let only_freeze =
            self.policy.freeze_after_seconds.is_some() && self.policy.sleep_after_seconds.is_none();
        let (field, rule) = if only_freeze {
            (FREEZE, format!("Must be at most sleep_after_seconds, {sleep}"))
        } else {
            (SLEEP, format!("Must be at least freeze_after_seconds, {freeze}"))
        };
        let message = format!(
            "{rule}: otherwise it sleeps before it could freeze. Set freeze_after_seconds to 0 if it is never to freeze."
        );
        Some(FieldError { field, code: FieldCode::SleepsBeforeItFreezes, message })
    }
}

/// Distinguishes `null` from an absent field.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

fn set_field<T>(
    to: &mut T,
    value: &Option<Value>,
    read: impl FnOnce(&Value) -> Result<T, FieldError>,
) -> Option<FieldError> {
    match value.as_ref().map(read)? {
        Ok(value) => *to = value,
        Err(error) => return Some(error),
    }
    None
}

fn require_sign_in(value: &Value) -> Result<bool, FieldError> {
    match value {
        Value::Bool(required) => Ok(*required),
        // As for the other fields of a policy: the installation's setting, which is off.
        Value::Null => Ok(false),
        Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            let message = "Must be true, false or null.".to_owned();
            Err(FieldError { field: REQUIRE_SIGN_IN, code: FieldCode::UnknownWord, message })
        }
    }
}

fn name(value: &Value) -> Result<String, FieldError> {
    let read = validation::name(value.as_str().unwrap_or_default());
    read.map_err(|fault| FieldError {
        field: "name",
        code: fault.code,
        message: fault.message.to_owned(),
    })
}

fn whole_number<T: TryFrom<u64>>(
    field: &'static str,
    value: &Value,
    bounds: RangeInclusive<u64>,
) -> Result<T, FieldError> {
    let fits = value.as_u64().filter(|n| bounds.contains(n)).and_then(|n| T::try_from(n).ok());
    fits.ok_or_else(|| {
        let message = format!("Must be a whole number, {} to {}.", bounds.start(), bounds.end());
        FieldError { field, code: FieldCode::OutOfBounds, message }
    })
}

fn seconds(field: &'static str, value: &Value) -> Result<Option<u32>, FieldError> {
    if value.is_null() {
        return Ok(None);
    }
    whole_number(field, value, SECONDS).map(Some).map_err(|fault| {
        let zero = if field == MAX_AWAKE { "no limit" } else { "never" };
        let message = format!(
            "Must be a whole number of seconds, 0 ({zero}) to {}, or null for the installation's setting.",
            SECONDS.end()
        );
        FieldError { message, ..fault }
    })
}

fn pinned(value: &Value) -> Result<bool, FieldError> {
    let message = "Must be true or false.".to_owned();
    value.as_bool().ok_or(FieldError { field: "pinned", code: FieldCode::Invalid, message })
}

fn wake_on(value: &Value) -> Result<Option<WakeOn>, FieldError> {
    serde_json::from_value(value.clone()).map_err(|_| FieldError {
        field: WAKE_ON,
        code: FieldCode::UnknownWord,
        message: "Must be \"visits\", \"any_request\", or null for the installation's setting."
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn current() -> Changeable {
        let policy = Policy {
            freeze_after_seconds: Some(30),
            sleep_after_seconds: Some(600),
            ..Policy::default()
        };
        Changeable { name: "Acme".into(), limits: Limits::default(), policy, pinned: false }
    }

    fn changed(patch: Value) -> Result<Changeable, String> {
        let change: Change = serde_json::from_value(patch).map_err(|error| error.to_string())?;
        change.apply_to(&current()).map_err(|faults| {
            let line = |f: &FieldError| format!("{} {}: {}", f.field, f.code, f.message);
            faults.iter().map(line).collect::<Vec<_>>().join("\n")
        })
    }

    #[test]
    fn absent_fields_stay_and_null_means_the_installations_setting() {
        assert_eq!(changed(json!({})).unwrap(), current());
        let one =
            changed(json!({ "limits": { "pids": 64 }, "policy": { "sleep_after_seconds": 0 } }));
        let one = one.unwrap();
        assert_eq!(one.limits, Limits { pids: 64, ..Limits::default() });
        assert_eq!(one.policy, Policy { sleep_after_seconds: Some(0), ..current().policy });
        let null = json!({ "policy": { "freeze_after_seconds": null, "wake_on": "any_request" } });
        let null = changed(null).unwrap().policy;
        assert_eq!((null.freeze_after_seconds, null.sleep_after_seconds), (None, Some(600)));
        assert_eq!(null.wake_on, Some(WakeOn::AnyRequest));
    }

    #[test]
    fn a_sleep_before_the_freeze_is_refused() {
        let policy = |freeze: Value, sleep: Value| {
            changed(
                json!({ "policy": { "freeze_after_seconds": freeze, "sleep_after_seconds": sleep } }),
            )
        };
        for (freeze, sleep) in [
            (json!(60), json!(60)),
            (json!(0), json!(1)),
            (json!(600), json!(0)),
            (json!(0), json!(0)),
            (json!(null), json!(5)),
            (json!(31_536_000), json!(null)),
        ] {
            assert!(policy(freeze.clone(), sleep.clone()).is_ok(), "{freeze} {sleep}");
        }
        assert!(policy(json!(61), json!(60)).unwrap_err().starts_with(SLEEP));
        let only = changed(json!({ "policy": { "freeze_after_seconds": 601 } }));
        assert!(only.unwrap_err().starts_with(FREEZE));
        assert!(
            changed(json!({ "policy": { "sleep_after_seconds": 29 } }))
                .unwrap_err()
                .starts_with(SLEEP)
        );
    }

    #[test]
    fn each_invalid_value_is_reported_at_its_field() {
        let patches = [
            json!({ "name": 5 }),
            json!({ "name": null }),
            json!({ "limits": { "cpu_millis": 9, "memory_bytes": null, "pids": "64" } }),
            json!({ "limits": { "memory_bytes": 4_398_046_511_105_u64, "pids": 64.5 } }),
            json!({ "policy": { "freeze_after_seconds": -1, "sleep_after_seconds": "60" } }),
            json!({ "policy": { "freeze_after_seconds": 1.5, "sleep_after_seconds": 31_536_001 } }),
            json!({ "policy": { "max_awake_seconds": true, "wake_on": "never" } }),
            json!({ "policy": { "wake_on": 1 } }),
            json!({ "policy": { "freeze_after_seconds": 900 } }),
            json!({ "policy": { "sleep_after_seconds": 10 } }),
            json!({ "policy": { "freeze": 1 } }),
            json!({ "policy": null }),
            json!({ "state": "running" }),
        ];
        let lines =
            patches.map(|patch| format!("{patch}\n{}", changed(patch.clone()).unwrap_err()));
        insta::assert_snapshot!(lines.join("\n\n"));
    }
}
